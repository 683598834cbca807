//! Networks, placements and GPUs: what is accepted, and how everything else is refused.

use cocoon_qemu::spec::HugePages;

use super::*;
use crate::relay::Door;
use crate::supervisor::Launch;

/// The appliance with `lines` added.
fn with(lines: &str) -> Result<Appliance, Problems> {
    let config = HostConfig::parse(&format!("{MINIMAL}{lines}\n"), "f", &large())?;
    Ok(config.appliances[0].clone())
}

#[test]
fn each_network_has_its_keys() {
    let plain = with("").unwrap();
    assert_eq!((plain.network, plain.gpu), (Network::User, None));
    assert_eq!(plain.placement, Placement::default());
    let tap = "network = { mode = \"tap\", device = \"cocoon0\", address = \"10.77.1.2/30\", vhost = false }";
    let expected = Network::Tap {
        device: "cocoon0".into(),
        address: "10.77.1.2/30".parse().unwrap(),
        vhost: Some(false),
    };
    let network = with(tap).unwrap().network;
    assert_eq!(network, expected);
    // The supervisor reads the network from JSON.
    let kept = serde_json::to_string(&network).unwrap();
    assert_eq!(serde_json::from_str::<Network>(&kept).unwrap(), network);
    let passt =
        "network = { mode = \"passt\", socket = \"/run/passt\", relay = \"127.0.0.1:18443\" }";
    let network = with(passt).unwrap().network;
    assert_eq!(network.guest().to_string(), "10.0.2.15/24");
    assert!(matches!(network, Network::Passt { relay, .. } if relay.port() == 18443));
}

#[test]
fn places_and_gpus_are_taken() {
    let lines = "gpu = \"41:00.0\"\nplacement.numa_nodes = [1, 0]";
    let placed = with(lines).unwrap();
    assert_eq!(placed.gpu.unwrap().to_string(), "0000:41:00.0");
    assert_eq!(placed.placement.nodes, [0, 1]);
    let text = MINIMAL.replace("\"tdx\"", "\"simulated-tdx\"");
    let text = format!("{text}placement.hugepages = \"1G\"\n");
    let config = HostConfig::parse(&text, "f", &large()).unwrap();
    assert_eq!(
        config.appliances[0].placement.hugepages,
        Some(HugePages::OneGib)
    );
}

#[tokio::test]
async fn a_cpu_model_is_snps_alone_and_reaches_the_machine() {
    let snp = MINIMAL.replace("\"tdx\"", "\"simulated-sev-snp\"");
    for (lines, model) in [
        ("", "EPYC-v4"),
        ("cpu = \"EPYC-Genoa-v1\"", "EPYC-Genoa-v1"),
    ] {
        let config = HostConfig::parse(&format!("{snp}{lines}\n"), "f", &large()).unwrap();
        let launch = Launch::new(&config.appliances[0], &config.host).waiting(true);
        let door = Door::shut();
        let options = launch.options(Path::new("/nonexistent"), &door).await;
        assert_eq!(options.unwrap().cpu_model, model);
    }
    assert_eq!(
        said("cpu = \"EPYC-v4\""),
        ["f:9:7: appliance.cpu: only SEV-SNP has a CPU model measured: leave it out"]
    );
    let wrong = problems(&format!("{snp}cpu = \"EPYC,x=on\"\n"), &large());
    assert_eq!(
        wrong,
        [
            "f:9:7: appliance.cpu: found \"EPYC,x=on\"; allowed: one of QEMU's CPU models for SEV-SNP, such as \"EPYC-v4\""
        ]
    );
}

/// VMs outlive their daemon, so a newer release compares what an earlier one started.
#[test]
fn what_a_daemon_without_cpu_models_left_is_read() {
    let config = HostConfig::parse(MINIMAL, "f", &large()).unwrap();
    let launch = Launch::new(&config.appliances[0], &config.host);
    let mut left = serde_json::to_value(&launch).unwrap();
    assert!(left.as_object_mut().unwrap().remove("cpu").is_some());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("launch.json"), left.to_string()).unwrap();
    assert_eq!(Launch::read(folder.path()), Some(launch));
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    let private = "a private IPv4 address with its network's prefix, such as \"10.77.1.2/30\"";
    let cases = [
        ("network.mode = \"usr\"", "9:16: appliance.network.mode: found \"usr\"; allowed: \"user\", \"tap\", \"passt\"; did you mean \"user\"?".to_owned()),
        ("network.vhost = true", "9:17: appliance.network.vhost: only a network with mode = \"tap\" has one".to_owned()),
        ("network.address = \"10.77.1.2/30\"", "9:19: appliance.network.address: on QEMU's own network the guest is always 10.0.2.15/24".to_owned()),
        ("network = { mode = \"tap\", address = \"10.77.1.2/30\" }", "9:11: appliance.network.device: missing: add it, such as `device = \"cocoon0\"`".to_owned()),
        ("network = { mode = \"tap\", device = \"tap0,script=x\", address = \"10.77.1.2/30\" }", "9:36: appliance.network.device: found \"tap0,script=x\"; allowed: the name of a network device: 1 to 15 letters, digits, '-', '_' or '.', beginning with a letter".to_owned()),
        ("network = { mode = \"tap\", device = \"tap0\", address = \"8.8.8.8/24\" }", format!("9:54: appliance.network.address: found \"8.8.8.8/24\"; allowed: {private}")),
        ("network = { mode = \"tap\", device = \"tap0\", address = \"10.77.1.3/30\" }", format!("9:54: appliance.network.address: found \"10.77.1.3/30\"; allowed: {private}")),
        ("network = { mode = \"passt\", socket = \"/s\", relay = \"0.0.0.0:1\" }", "9:52: appliance.network.relay: found \"0.0.0.0:1\"; allowed: a loopback address that passt listens on, such as \"127.0.0.1:18443\"".to_owned()),
        ("placement.hugepages = \"1G\"", "9:23: appliance.placement.hugepages: tdx keeps private memory in guest_memfd, which takes no huge pages: leave it out".to_owned()),
        ("placement.hugepages = \"transparent\"", "9:23: appliance.placement.hugepages: transparent huge pages are the kernel's affair, and on with \"none\" where they are on at all; did you mean \"none\"?".to_owned()),
        ("placement.hugepages = \"2MB\"", "9:23: appliance.placement.hugepages: found \"2MB\"; allowed: \"none\", \"2M\", \"1G\"".to_owned()),
        ("placement.numa_nodes = [0, 2]", "9:24: appliance.placement.numa_nodes: the machine has no NUMA node 2; allowed: 0, 1".to_owned()),
        ("placement.numa_nodes = [1, 1]", "9:24: appliance.placement.numa_nodes: node 1 stands there twice".to_owned()),
        ("placement.numa_nodes = 0", "9:24: appliance.placement.numa_nodes: found 0; allowed: numbers of NUMA nodes, each once, such as [0]".to_owned()),
    ];
    for (line, expected) in cases {
        assert_eq!(said(line), [format!("f:{expected}")], "{line}");
    }
    let text = MINIMAL.replace("\"tdx\"", "\"simulated-tdx\"");
    let emulated = format!("{text}accelerator = \"tcg\"\ngpu = \"41:00.0\"\n");
    let expected = "f:10:7: appliance.gpu: 0000:41:00.0 can be given to a VM under KVM only, and accelerator is \"tcg\"";
    assert_eq!(problems(&emulated, &large()), [expected]);
    let part = text.replace("\"1G\"", "\"1536M\"") + "placement.hugepages = \"1G\"\n";
    let expected = "f:9:23: appliance.placement.hugepages: 1536 MiB of memory are no multiple of a page of 1024 MiB";
    assert_eq!(problems(&part, &large()), [expected]);
}

#[test]
fn what_one_has_no_other_gets() {
    let two = |first: &str, other: &str| {
        let first = format!("{MINIMAL}{first}\n").replace("\"tdx\"", "\"simulated-tdx\"");
        let second = first.replace("first", "second").replace("8443\"", "8444\"");
        let second = second.split_once("[[appliance]]").unwrap().1.to_owned();
        let line = second.lines().last().unwrap().to_owned();
        problems(
            &format!("{first}[[appliance]]{}", second.replace(&line, other)),
            &large(),
        )
    };
    let tap = |device: &str, address: &str| {
        format!("network = {{ mode = \"tap\", device = \"{device}\", address = \"{address}\" }}")
    };
    let first = tap("cocoon0", "10.77.1.2/30");
    assert_eq!(two(&first, &tap("cocoon1", "10.77.1.6/30")), [""; 0]);
    let taken = |what: &str| {
        [format!(
            "f:17:20: appliance.network: {what} is taken by the network in line 9"
        )]
    };
    assert_eq!(
        two(&first, &tap("cocoon0", "10.77.1.6/30")),
        taken("the device cocoon0")
    );
    assert_eq!(
        two(&first, &tap("cocoon1", "10.77.1.2/30")),
        taken("the address 10.77.1.2")
    );
    let pages = "placement.hugepages = \"2M\"";
    let machine = Machine {
        hugepages: |_| Some(700),
        ..large()
    };
    let first = format!("{MINIMAL}{pages}\n").replace("\"tdx\"", "\"simulated-tdx\"");
    assert_eq!(problems(&first, &machine), [""; 0]);
    let expected = "f:9:23: appliance.placement.hugepages: 512 pages of 2 MiB are needed and the kernel's pool has 8: write the number to /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(problems(&first, &large()), [expected]);
    let simulated = MINIMAL.replace("\"tdx\"", "\"simulated-tdx\"");
    let said = problems(&format!("{simulated}gpu = \"41:00.0\"\n"), &large());
    let expected = "f:9:7: appliance.gpu: 0000:41:00.0 changes what is measured, and a simulated TEE measures no machine with a GPU";
    assert_eq!(said, [expected]);
}
