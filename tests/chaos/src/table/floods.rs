//! Guests that flood: with output, files, processes, packets; and guests that end themselves.

use crate::fault::{Fault, Promise, Scene};
use crate::neighbour::ADDRESS;
use crate::work::{Ended, Work};

pub(super) fn faults() -> Vec<Fault> {
    vec![
        Fault::up(
            "flood-of-output",
            Work::Command(&["-t", "3"], "echo up; yes 'flood flood flood'"),
            |_| Ok(()),
        )
        .promise(Promise::exits(&[124, 137]))
        .within(15),
        Fault::scene("flood-of-values", |s| {
            let code = "import os\nwhile True: os.write(3, b'x' * 65536)";
            s.run(s.world, &["run", "--json", "-t", "2", "-l", "python", "-c", code])
        })
        .promise(Promise::exits(&[0, 1, 124, 137]))
        .within(15),
        Fault::up(
            "flood-of-files",
            Work::Session(
                "echo up; i=0; while [ $i -lt 40000 ]; do : > f$i 2>/dev/null || break; i=$((i+1)); done; \
                 dd if=/dev/zero of=big bs=1M 2>/dev/null; rm -rf f* big; echo freed > note && cat note",
            ),
            |_| Ok(()),
        )
        .promise(Promise::causes_of(&["exited"]).says("freed"))
        .within(60),
        Fault::up(
            "flood-of-processes",
            Work::Command(&["-t", "3"], "echo up; f() { f | f & }; f; sleep 60"),
            |_| Ok(()),
        )
        .promise(Promise::exits(&[124, 137]))
        .within(20),
        Fault::scene("flood-of-packets", packets)
            .promise(Promise::exits(&[0]).says("sent"))
            .within(25),
        Fault::scene("flood-of-connections", connections)
            .promise(Promise::exits(&[0]).says("tried"))
            .within(40),
        Fault::scene("guest-reboots", |s| reboot(s, "0x1234567"))
            .promise(Promise::exits(&[125]))
            .within(15),
        Fault::scene("guest-powers-off", |s| reboot(s, "0x4321fedc"))
            .promise(Promise::exits(&[125]))
            .within(15),
        Fault::scene("kill-agent-from-inside", |s| {
            let code = "import re\nm = open('/proc/1/mem', 'r+b', 0)\n\
                        for l in open('/proc/1/maps'):\n\
                        \x20a, b = (int(x, 16) for x in re.match('(\\w+)-(\\w+)', l).groups())\n\
                        \x20if ' r-x' in l or ' rw-' in l:\n\
                        \x20 try: m.seek(a); m.write(b'\\xcc' * (b - a))\n\
                        \x20 except OSError: pass\n\
                        import time; time.sleep(60)";
            s.run(s.world, &["shell", "--root", "--", "python3", "-c", code])
        })
        .promise(Promise::exits(&[125]))
        .within(15),
        Fault::scene("noise-on-the-agents-line", |s| {
            root(s, "exec 3<>/dev/vport0p1 2>/dev/null; cat /dev/zero >&3 2>/dev/null; exit 9")
        })
        .promise(Promise::exits(&[9, 125]))
        .within(15),
        Fault::scene("small-memory", |s| {
            let code = "x = bytearray(400 << 20); print(len(x))";
            s.run(s.world, &["run", "--json", "-m", "96", "-l", "python", "-c", code])
        })
        .promise(Promise::exits(&[1, 137]).causes(&["out_of_memory", "exited"]))
        .within(30),
    ]
}

fn root(s: &mut Scene<'_>, code: &str) -> anyhow::Result<Ended> {
    s.run(s.world, &["shell", "--root", "--", "sh", "-c", code])
}

/// Ends the guest's kernel by a system call.
fn reboot(s: &mut Scene<'_>, command: &str) -> anyhow::Result<Ended> {
    let code = format!("import ctypes, time; ctypes.CDLL(None).reboot({command}); time.sleep(60)");
    let args = ["shell", "--root", "--", "python3", "-c", &code];
    s.run(s.world, &args)
}

/// Packets to a port that nobody listens at, to one that the policy denies, and to nowhere.
fn packets(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let code = format!(
        "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         end = time.monotonic() + 2\nn = 0\nwhile time.monotonic() < end:\n\
         \x20for a in [('{ADDRESS}', 9), ('{ADDRESS}', 8080), ('203.0.113.9', 53)]:\n\
         \x20 try: s.sendto(b'x' * 1400, a)\n\x20 except OSError: pass\n\x20 n += 1\nprint('sent')"
    );
    network(s, &code)
}

/// Connections that are opened and left alone.
fn connections(s: &mut Scene<'_>) -> anyhow::Result<Ended> {
    let code = format!(
        "import socket\nall = []\nfor n in range(600):\n\x20try:\n\x20 c = socket.socket(); c.settimeout(5); \
         c.connect(('{ADDRESS}', 8080)); all.append(c)\n\x20except OSError: pass\nprint('tried')"
    );
    network(s, &code)
}

fn network(s: &mut Scene<'_>, code: &str) -> anyhow::Result<Ended> {
    let allow = format!("{ADDRESS}:8080");
    let args = [
        "run", "-t", "60", "-l", "python", "--allow", &allow, "-c", code,
    ];
    s.run(s.world, &args)
}
