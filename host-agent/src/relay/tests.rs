//! Tests of the relay with clients and guests on loopback.

use super::*;

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

fn quiet(_: String) {}

async fn door() -> Door {
    let door = Door::shut();
    assert_eq!(door.state(), DoorState::Shut);
    door.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    door
}

async fn start(limits: Limits) -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let door = door().await;
    let address = door.address().unwrap();
    let (gate, open) = watch::channel(false);
    (
        address,
        gate,
        tokio::spawn(relay(door, echo().await, limits, open, quiet)),
    )
}

#[test]
fn connections_are_no_more_than_there_are_descriptors_for() {
    assert_eq!(room(1), 1);
    let most = room(usize::MAX);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(soft, hard, "as many as there may be");
    assert_eq!(most as u64, (hard - OTHERS) / 2);
    assert_eq!(room(2), 2);
}

/// One address gets half of the places for unattested clients, however small the VM. A configured limit takes precedence.
#[test]
fn an_address_has_half_of_what_there_is_for_strangers() {
    let of = |memory_mib, model, all| {
        let strangers = strangers(memory_mib, model);
        let limits = Limits {
            strangers,
            ..Limits::default()
        };
        (strangers, limits.of_one(all))
    };
    const GIB: u64 = 1 << 30;
    assert_eq!(of(1024, GIB / 4, 4096), (32, 16));
    assert_eq!(of(0, u64::MAX, 4096), (32, 16));
    assert_eq!(of(16 << 10, 4 * GIB, 4096), (256, 128));
    assert_eq!(of(u32::MAX, GIB, 4096), (2048, 1024));
    // The relay has fewer connections than the guest would take, down to one.
    assert_eq!(of(u32::MAX, GIB, 384), (2048, 192));
    assert_eq!(of(1024, GIB, 1), (32, 1));
    let named = Limits {
        per_address: Some(7),
        ..Limits::default()
    };
    assert_eq!((named.of_one(4096), named.of_one(1)), (7, 7));
}

/// The failed VM may still take a while to be gone, and no client must wait in its listener's queue.
#[tokio::test]
async fn a_vm_that_ends_before_it_serves_gives_its_listener_up() {
    let (address, gate, relaying) = start(Limits::default()).await;
    drop(gate);
    relaying.await.unwrap();
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// A guest that serves but cannot be reached over its network is reported to the operator.
#[tokio::test]
async fn a_guest_that_cannot_be_reached_is_told_of() {
    let door = door().await;
    let address = door.address().unwrap();
    let (_gate, open) = watch::channel(true);
    let (said, mut saying) = tokio::sync::mpsc::unbounded_channel();
    // Nothing listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest = gone.local_addr().unwrap();
    drop(gone);
    tokio::spawn(relay(door, guest, Limits::default(), open, move |line| {
        said.send(line).unwrap();
    }));
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    let told = saying.recv().await.unwrap();
    let expected = format!("the guest cannot be reached at {guest}: Connection refused");
    assert!(told.contains(&expected), "{told}");
}

/// A connection over the limit is closed at once, and the address gets a place again when one of its connections ends.
#[tokio::test]
async fn an_address_has_no_more_than_its_share() {
    let door = door().await;
    let address = door.address().unwrap();
    let (_gate, open) = watch::channel(true);
    let places = (8, Places::new(2).strict());
    let limits = Limits::default();
    let (said, mut saying) = tokio::sync::mpsc::unbounded_channel();
    let guest = echo().await;
    let lost = Lost::new(guest, 2, move |line| said.send(line).unwrap());
    tokio::spawn(serve(door, guest, limits, places, open, lost));
    let heard = |mut client: TcpStream| async move {
        let mut answer = [0];
        let asked = client.write_all(b"x").await;
        let heard = asked.is_ok() && client.read_exact(&mut answer).await.is_ok();
        heard.then_some(client)
    };
    let connect = || async { TcpStream::connect(address).await.unwrap() };
    let first = heard(connect().await).await.expect("the first one's place");
    let _second = heard(connect().await).await.expect("the second one's");
    assert!(heard(connect().await).await.is_none(), "there is no third");
    let told = saying.recv().await.expect("a line about it");
    assert!(told.contains("127.0.0.1 has 2 already"), "{told}");
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let elsewhere = elsewhere.connect(address).await.unwrap();
    assert!(
        heard(elsewhere).await.is_some(),
        "another address has its own"
    );
    drop(first);
    let again = async {
        loop {
            if heard(connect().await).await.is_some() {
                return;
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), again).await;
    again.expect("the place of the one that left");
}

#[tokio::test]
async fn clients_wait_for_the_gate_and_finish_after_it_closes() {
    let (address, gate, task) = start(Limits::default()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    gate.send(true).unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
    gate.send(false).unwrap();
    client.write_all(b"again").await.unwrap();
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"again");
    drop(client);
    task.await.unwrap();
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// An answer may take as long as the connection lives: silence in between does not end it earlier.
#[tokio::test]
async fn whoever_waits_for_an_answer_is_cut_at_the_end_of_the_connections_life_alone() {
    let (late, life) = (Duration::from_millis(500), Duration::from_millis(1500));
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest = slow.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = slow.accept().await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        tokio::time::sleep(late).await;
        stream.write_all(b"answer").await.unwrap();
        std::future::pending::<()>().await;
    });
    let door = door().await;
    let address = door.address().unwrap();
    let (_gate, open) = watch::channel(true);
    let limits = Limits {
        life,
        ..Limits::default()
    };
    tokio::spawn(relay(door, guest, limits, open, quiet));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"question").await.unwrap();
    let began = std::time::Instant::now();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"answer");
    assert!(began.elapsed() >= late);
    assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_)));
    // The connection began a little before the client's clock.
    assert!(began.elapsed() >= life - late);
}

/// Such a client's place is free soon after the guest has finished, long before the connection's life ends.
#[tokio::test]
async fn a_client_that_stays_after_the_guest_left_gives_its_place_up() {
    let curt = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest = curt.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = curt.accept().await {
            stream.write_all(b"bye").await.unwrap();
        }
    });
    let door = door().await;
    let address = door.address().unwrap();
    let (_gate, open) = watch::channel(true);
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    tokio::spawn(relay(door, guest, limits, open, quiet));
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut said = String::new();
    first.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "bye");
    let second = async {
        let mut said = String::new();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.read_to_string(&mut said).await.unwrap();
        said
    };
    let served = tokio::time::timeout(LINGER * 30, second).await;
    assert_eq!(served.expect("the first one's place"), "bye");
    drop(first);
}

/// A request is answered even if the client has closed its sending side.
#[tokio::test]
async fn whoever_has_asked_may_close_and_wait_for_the_answer() {
    let patient = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let guest = patient.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = patient.accept().await.unwrap();
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.unwrap();
        // Longer than a client may keep its side open after the guest has finished.
        tokio::time::sleep(LINGER + LINGER / 2).await;
        stream.write_all(&asked).await.unwrap();
    });
    let door = door().await;
    let address = door.address().unwrap();
    let (_gate, open) = watch::channel(true);
    tokio::spawn(relay(door, guest, Limits::default(), open, quiet));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "question");
}

#[tokio::test]
async fn an_end_that_is_gone_is_noticed_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await;
    let stream = stream.unwrap();
    prepare(&stream).unwrap();
    assert!(sockopt::socket_keepalive(&stream).unwrap());
    let asked = (
        sockopt::tcp_keepidle(&stream).unwrap().as_secs(),
        sockopt::tcp_keepintvl(&stream).unwrap().as_secs(),
        sockopt::tcp_keepcnt(&stream).unwrap(),
    );
    assert_eq!(asked, (60, 15, 4));
    assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 120_000);
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = door().await;
    let address = taken.address().unwrap();
    let error = Door::shut().bind(address).await.unwrap_err().to_string();
    let advice = "is in use by another program: choose another (--listen, or `listen` in the file), or stop that program";
    assert_eq!(error, format!("{address} {advice}"));
}

/// Two guests share one socket: a held door leaves the queue to the other, and no client is refused.
#[tokio::test]
async fn a_door_is_shared_held_and_released() {
    async fn named(name: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(name).await;
            }
        });
        address
    }
    async fn who(address: SocketAddr) -> String {
        let mut said = String::new();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }
    let (old, new) = (door().await, Door::shut());
    let address = old.address().unwrap();
    let (gate, open) = watch::channel(true);
    let limits = Limits::default();
    let relays = [(&old, named(b"old").await), (&new, named(b"new").await)]
        .map(|(door, guest)| tokio::spawn(relay(door.clone(), guest, limits, open.clone(), quiet)));
    assert_eq!(who(address).await, "old");
    let shared = old.listener().unwrap();
    let shared = rustix::io::dup(&*shared).unwrap();
    let shared = std::net::TcpListener::from(shared);
    new.take(TcpListener::from_std(shared).unwrap());
    old.hold();
    assert_eq!(
        (old.state(), new.state()),
        (DoorState::Held, DoorState::Open)
    );
    for _ in 0..20 {
        assert_eq!(who(address).await, "new");
    }
    new.hold();
    let waiting = tokio::spawn(who(address));
    old.release();
    assert_eq!(waiting.await.unwrap(), "old");
    gate.send(false).unwrap();
    drop(gate);
    for relay in relays {
        relay.await.unwrap();
    }
    assert_eq!(
        (old.state(), new.state()),
        (DoorState::Shut, DoorState::Shut)
    );
}
