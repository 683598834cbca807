//! Tests of GPU events, and of failures to receive them.

use super::*;

#[test]
fn events_name_the_gpu_by_its_place() {
    let xid = |pci, code| Xid { pci, code };
    let heard = |deaf| {
        let driver = Answers {
            count: 2,
            events: vec![
                xid(Some(address(0x20)), 79),
                xid(Some(address(9)), 31),
                xid(None, 0),
            ],
            deaf,
            ..on()
        };
        let mut heard = Vec::new();
        attached(driver).listen(&mut |_| (), &mut |event| {
            heard.push(event);
            !matches!(event, GpuEvent::Deaf(_))
        });
        heard
    };
    let place = |gpu, code| GpuEvent::Xid { gpu, code };
    let deaf = GpuEvent::Deaf(failure(NvmlCall::Events, Fault::NOT_SUPPORTED));
    let xids = [place(Some(1), 79), place(None, 31), place(None, 0)];
    assert_eq!(heard(Fault::NOT_SUPPORTED), [&xids[..], &[deaf]].concat());
    assert_eq!(
        heard(Fault::GPU_LOST),
        [&xids[..], &[GpuEvent::Lost { gpu: None }]].concat()
    );
}

/// After each failure to receive events, the failure is reported and the driver is listened to again.
#[test]
fn events_that_cannot_be_heard_are_listened_for_again() {
    let heard = |events: Vec<Xid>| {
        let driver = Answers {
            events,
            deaf: Fault(999),
            ..on()
        };
        let (mut pauses, mut heard) = (Vec::new(), Vec::new());
        attached(driver).listen(&mut |pause| pauses.push(pause.as_secs()), &mut |event| {
            heard.push(event);
            heard.len() < 9
        });
        (pauses, heard)
    };
    let deaf = GpuEvent::Deaf(failure(NvmlCall::Events, Fault(999)));
    assert_eq!(
        heard(Vec::new()),
        (vec![1, 2, 4, 8, 16, 32, 60, 60], vec![deaf; 9])
    );
    // After an event the pause is again the shortest one.
    let xid = |code| Xid { pci: None, code };
    let (pauses, events) = heard(vec![xid(31), xid(32)]);
    let told = |code| GpuEvent::Xid { gpu: None, code };
    assert_eq!(pauses, [1, 1]);
    assert_eq!(events, [told(31), told(32), deaf].repeat(3));
}
