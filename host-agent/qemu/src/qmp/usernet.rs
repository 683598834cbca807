//! Parses the output of `info usernet`, the only place where QEMU shows which host port a forwarding got.

/// Returns the host port that is forwarded to `guest_port`.
///
/// ```text
///   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
///   TCP[HOST_FORWARD]  13       127.0.0.1 34567       10.0.2.15  8443     0     0
/// ```
pub(super) fn forwarded(table: &str, guest_port: u16) -> Option<u16> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "TCP[HOST_FORWARD]").then_some(())?;
        let host = fields.nth(2)?.parse().ok()?;
        let guest: u16 = fields.nth(1)?.parse().ok()?;
        (guest == guest_port).then_some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::forwarded;

    const TABLE: &str = "Hub -1 (net0):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[ESTABLISHED]   14       127.0.0.1 40000       10.0.2.15  8443     0     0\r
  TCP[HOST_FORWARD]  12       127.0.0.1 11111       10.0.2.15    22     0     0\r
  TCP[HOST_FORWARD]  13       127.0.0.1 34567       10.0.2.15  8443     0     0\r\n";

    #[test]
    fn the_port_of_the_listening_entry() {
        assert_eq!(forwarded(TABLE, 8443), Some(34567));
        assert_eq!(forwarded(TABLE, 22), Some(11111));
        assert_eq!(forwarded(TABLE, 443), None);
        for bad in [
            "",
            "TCP[HOST_FORWARD]",
            "TCP[HOST_FORWARD] 1 a 99999 b 8443",
            "TCP[HOST_FORWARD] 1 a 1 b",
        ] {
            assert_eq!(forwarded(bad, 8443), None, "{bad:?}");
        }
    }
}
