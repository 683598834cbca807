//! The supervisor's end of its socket: the newest report to whoever listens, orders back, and the public listener to the
//! supervisor that takes it over.

use std::time::Duration;

use cocoon_protocol::frame::{self, Decoder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{MAX_MESSAGE, Order, Report, passing};
use crate::relay::Door;

/// Daemons that may listen at once: one that goes, one that comes, and people who look.
const LISTENERS: usize = 8;
/// After a failure to take one.
const RETRY: Duration = Duration::from_millis(100);
/// How long a daemon may take to read a report.
const READ: Duration = Duration::from_secs(10);

/// Serves daemons until the last report is out.
pub(super) async fn serve(
    listener: UnixListener,
    reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    door: Door,
) {
    let mut daemons = JoinSet::new();
    let mut watched = reports.clone();
    let ended = async move {
        // An error is the end of all reports, after the last one was sent.
        let _ = watched.wait_for(|report| report.ended.is_some()).await;
    };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            accepted = listener.accept(), if daemons.len() < LISTENERS => {
                let Ok((stream, _)) = accepted else {
                    // Out of descriptors, as a rule: whoever waits is still there a moment later.
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

/// One daemon: the newest report whenever there is one, and its orders.
async fn tell(
    stream: UnixStream,
    mut reports: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    door: Door,
) {
    let (mut reader, mut writer) = stream.into_split();
    let (mut decoder, mut buffer) = (Decoder::new(MAX_MESSAGE), vec![0; 1024]);
    reports.mark_changed();
    loop {
        tokio::select! {
            changed = reports.changed() => {
                let report = reports.borrow_and_update().clone();
                if changed.is_err() && report.ended.is_none() {
                    return;
                }
                let last = report.ended.is_some();
                let Ok(bytes) = frame::encode(&report, MAX_MESSAGE) else { return };
                match timeout(READ, writer.write_all(&bytes)).await {
                    Ok(Ok(())) if !last => {}
                    _ => return,
                }
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
                            // Full: whoever asks so much more than can be done sees in the reports what was.
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

/// Sends the newest report again, with the public listener. False when there is none, or nobody takes it.
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
