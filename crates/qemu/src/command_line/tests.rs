use std::fmt::Display;

use super::*;

fn args<S: QemuArg + Display>(option: &S) -> Vec<String> {
    let list = CommandLine::default().with(option).into_args();
    list.into_iter().map(|a| a.into_string().unwrap()).collect()
}

#[test]
fn options_use_the_spelling_of_qemu() {
    assert_eq!(
        args(&Machine::Microvm { acpi: false }),
        ["-M", "microvm,acpi=off,suppress-vmdesc=on"]
    );
    assert_eq!(
        args(&Accel::Tcg { tb_size_mib: 64 }),
        ["-accel", "tcg,thread=single,tb-size=64"]
    );
    assert_eq!(args(&Memory(256)), ["-m", "256M"]);
    assert_eq!(args(&Fdset { fd: 9, set: 1 }), ["-add-fd", "fd=9,set=1"]);
    assert_eq!(
        args(&Chardev {
            id: "agent".into(),
            fd: 4
        }),
        ["-chardev", "socket,id=agent,fd=4"]
    );
}

#[test]
fn no_guest_can_run_guests() {
    for cpu in [Cpu::Max, Cpu::Host] {
        let model = &args(&cpu)[1];
        for extension in ["svm", "vmx"] {
            let removed = format!("-{extension}");
            assert!(model.split(',').any(|part| part == removed), "{model}");
        }
    }
}

#[test]
fn a_network_card_and_its_netdev() {
    let netdev = Netdev {
        id: "net".into(),
        fd: 7,
    };
    assert_eq!(
        args(&netdev),
        [
            "-netdev",
            "stream,id=net,server=off,addr.type=fd,addr.str=7"
        ]
    );
    let card = Device::VirtioNet {
        netdev: "net".into(),
        mac: [2, 0x66, 0, 0xff, 0x10, 1],
        mtu: 1500,
    };
    let arg = &args(&card)[1];
    assert!(
        arg.starts_with(
            "virtio-net-device,netdev=net,mac=02:66:00:ff:10:01,host_mtu=1500,status=off"
        ),
        "{arg}"
    );
    assert!(!arg.contains(' '), "{arg}");
}

#[test]
fn an_empty_disk() {
    let disk = NullBlockdev {
        node_name: "layer".into(),
        size: 512,
    };
    assert_eq!(
        args(&disk),
        [
            "-blockdev",
            "driver=null-co,node-name=layer,read-only=on,read-zeroes=on,size=512"
        ]
    );
}

#[test]
fn a_comma_cannot_inject_an_option() {
    let chardev = Chardev {
        id: "a,server=on".into(),
        fd: 4,
    };
    assert_eq!(args(&chardev)[1], "socket,id=a,,server=on,fd=4");
}
