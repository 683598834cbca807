//! Hosts that violate the control protocol. The agent's own tests cover every kind of message; here each kind of
//! violation ends a real VM with one line.

use cocoon_protocol::control::{HostMessage, MAX_HOST_MESSAGE};
use cocoon_tests::bare::BareVm;
use cocoon_tests::trial::{Model, image, turn};

/// Sends `bytes` in place of the host's configuration, and returns the guest's reason for ending.
async fn saying(bytes: &[u8]) -> String {
    let image = image(Model::Alphabet).await.unwrap();
    let vm = BareVm::start(&image.folder, Some(turn(1).await), |_| (), |_| ()).await;
    let mut vm = vm.unwrap();
    vm.hello().await.unwrap();
    vm.say_bytes(bytes).await.unwrap();
    vm.end().await.unwrap().reason().unwrap()
}

async fn garbage() {
    let framed = [&7_u32.to_be_bytes()[..], b"rubbish"].concat();
    assert_eq!(
        saying(&framed).await,
        "configuration: the host broke the control protocol: frame is not a message of this channel (line 1, column 1)"
    );
}

async fn too_much() {
    let over = u32::try_from(MAX_HOST_MESSAGE + 1).unwrap();
    assert_eq!(
        saying(&over.to_be_bytes()).await,
        "configuration: the host broke the control protocol: frame of 6291457 bytes exceeds the limit of 6291456 bytes of this channel"
    );
}

async fn out_of_turn() {
    let drain = cocoon_protocol::frame::encode(&HostMessage::Drain, MAX_HOST_MESSAGE).unwrap();
    assert_eq!(
        saying(&drain).await,
        "configuration: the host broke the control protocol: message `drain` has no place in phase configuration"
    );
}

/// Takes two minutes, but almost no processor time.
async fn nothing() {
    let image = image(Model::Alphabet).await.unwrap();
    let vm = BareVm::start(&image.folder, None, |_| (), |_| ()).await;
    let mut vm = vm.unwrap();
    vm.hello().await.unwrap();
    assert_eq!(
        vm.end().await.unwrap().reason().unwrap(),
        "configuration: the host sent no configuration within 120 s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_too_much_nothing_and_words_out_of_turn() {
    tokio::join!(nothing(), garbage(), too_much(), out_of_turn());
}
