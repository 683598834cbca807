//! The supervisor's end of the protocol: sends the newest report to each daemon, receives orders, and lends the public
//! listener to the supervisor that takes it over.

use std::time::Duration;

use cocoon_protocol::frame::{self, Decoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{MAX_MESSAGE, Order, Report, passing};
use crate::relay::Door;

/// Connections at once: the daemon that ends, the one that starts, and a few other readers.
const LISTENERS: usize = 8;
/// Pause after a failed accept.
const RETRY: Duration = Duration::from_millis(100);
/// How long a daemon may take to read a report.
const READ: Duration = Duration::from_secs(10);
/// Least time between two reports that differ in counters only: a guest may send counters at any rate, and the daemon
/// has other VMs to follow.
const PAUSE: Duration = Duration::from_millis(250);

/// Serves daemons until the last report is sent.
pub(super) async fn serve(
    listener: UnixListener,
    reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    door: Door,
) {
    let mut daemons = JoinSet::new();
    let mut watched = reports.clone();
    let ended = async move {
        // An error means that no more reports come and that the last one was sent.
        let _ = watched.wait_for(|report| report.ended.is_some()).await;
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            accepted = listener.accept(), if daemons.len() < LISTENERS => {
                let Ok((stream, _)) = accepted else {
                    // Usually the process is out of file descriptors; waiting clients are still there a moment later.
                    sleep(RETRY).await;
                    continue;
                };
                daemons.spawn(tell(stream, reports.clone(), orders.clone(), door.clone()));
            }
            Some(_) = daemons.join_next() => {}
            () = &mut ended => break,
        }
    }
    while daemons.join_next().await.is_some() {}
}

/// Serves one daemon: sends the newest report whenever it changes, and receives orders.
async fn tell(
    stream: UnixStream,
    mut reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    door: Door,
) {
    let (mut reader, mut writer) = stream.into_split();
    let (mut decoder, mut buffer) = (Decoder::new(MAX_MESSAGE), vec![0; 1024]);
    reports.mark_changed();
    let mut told: Option<(Report, Instant)> = None;
    loop {
        tokio::select! {
            changed = due(&mut reports, told.as_ref()) => {
                let report = reports.borrow_and_update().clone();
                if !changed && report.ended.is_none() {
                    return;
                }
                let last = report.ended.is_some();
                let Ok(bytes) = frame::encode(&report, MAX_MESSAGE) else { return };
                match timeout(READ, writer.write_all(&bytes)).await {
                    Ok(Ok(())) if !last => {}
                    _ => return,
                }
                told = Some((report, Instant::now()));
            }
            read = reader.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    decoder.push(&buffer[..count]);
                    loop {
                        match decoder.next::<Order>() {
                            Ok(Some(Order::Lend)) => {
                                if !lend(&mut writer, &reports, &door).await {
                                    return;
                                }
                            }
                            // If the queue is full, the order is dropped; the reports show which orders were carried out.
                            Ok(Some(order)) => drop(orders.try_send(order)),
                            Ok(None) => break,
                            Err(_) => return,
                        }
                    }
                }
            },
        }
    }
}

/// Waits until there is something to send after the report `told`: at once if the VM has made progress, after a pause
/// if only counters have changed. Returns false if no more reports come.
async fn due(reports: &mut watch::Receiver<Report>, told: Option<&(Report, Instant)>) -> bool {
    let Some((told, at)) = told else {
        return reports.changed().await.is_ok();
    };
    let mut at_once = reports.clone();
    tokio::select! {
        // A closed channel is left to the other branch, which still delivers a report that it has not seen.
        Ok(_) = at_once.wait_for(|report| is_news(told, report)) => true,
        changed = async {
            sleep_until(*at + PAUSE).await;
            reports.changed().await
        } => changed.is_ok(),
    }
}

/// Returns whether two reports differ in more than counters.
fn is_news(told: &Report, report: &Report) -> bool {
    let counters = |report: &Report| Report {
        metrics: None,
        gpus: vec![],
        engine_restarts: 0,
        ..report.clone()
    };
    counters(told) != counters(report)
}

/// Sends the newest report again, with the public listener. Returns false if there is no listener or the peer does not
/// take it.
async fn lend(writer: &mut OwnedWriteHalf, reports: &watch::Receiver<Report>, door: &Door) -> bool {
    let report = reports.borrow().clone();
    let (Some(listener), Ok(bytes)) = (door.listener(), frame::encode(&report, MAX_MESSAGE)) else {
        return false;
    };
    let sent = async {
        let sent = passing::lend(writer.as_ref(), &bytes, &*listener).await?;
        writer.write_all(&bytes[sent..]).await
    };
    matches!(timeout(READ, sent).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use cocoon_protocol::control::Metrics;

    use super::*;
    use crate::lifecycle::{Ending, Stage};

    /// A guest that sends counters without pause, and the reports that a daemon receives of it.
    #[tokio::test]
    async fn counters_are_told_now_and_then_and_all_else_at_once() {
        let (report, reports) = watch::channel(Report::first(1));
        let (orders, _ordered) = mpsc::channel(1);
        let (ours, mut daemon) = UnixStream::pair().unwrap();
        let telling = tokio::spawn(tell(ours, reports, orders, Door::shut()));
        let counting = tokio::spawn(async move {
            for prompts in 0..500 {
                report.send_modify(|report| {
                    let metrics = report.metrics.get_or_insert_with(Metrics::default);
                    metrics.prompt_tokens = prompts;
                    if prompts == 250 {
                        report.stage = Stage::Serving;
                    }
                });
                // Gives the sender time to send.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
            report.send_modify(|report| report.ended = Some(Ending::Stopped));
        });
        let mut bytes = vec![];
        daemon.read_to_end(&mut bytes).await.unwrap();
        counting.await.unwrap();
        telling.await.unwrap();
        let mut decoder = Decoder::new(MAX_MESSAGE);
        decoder.push(&bytes);
        let mut heard = vec![];
        while let Some(report) = decoder.next::<Report>().unwrap() {
            heard.push(report);
        }
        assert!(heard.len() < 100, "{} reports", heard.len());
        // Serving was reported at once: neither with the next counters that were due, nor with the last report.
        let at_once = |report: &Report| {
            let metrics = report.metrics.unwrap_or_default();
            report.stage == Stage::Serving
                && report.ended.is_none()
                && (250..260).contains(&metrics.prompt_tokens)
        };
        assert!(heard.iter().any(at_once), "{heard:#?}");
        assert_eq!(heard.last().unwrap().ended, Some(Ending::Stopped));
    }
}
