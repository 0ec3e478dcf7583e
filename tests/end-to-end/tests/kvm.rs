//! The path through KVM. `cargo xtask test-kvm` runs these tests in an emulated host, on any machine; on a machine with
//! KVM, the others exercise it too.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use fumehood_end_to_end::{finish, fumehood, json, program};
use serde_json::Value;

const DEVICE: &str = "/dev/kvm";

/// Whether this is the emulated host: KVM must work, and its device belongs to the tests.
fn is_emulated_host() -> bool {
    std::env::var_os("FUMEHOOD_TEST_KVM").is_some()
}

/// Sets the mode and the group of the device.
fn set_device(mode: u32, gid: u32) {
    chown(DEVICE, Some(0), Some(gid)).unwrap();
    fs::set_permissions(DEVICE, Permissions::from_mode(mode)).unwrap();
}

/// Runs code with the default options and these, and checks that it ran under KVM.
fn run(language: &str, code: &str, options: &[&str]) -> Value {
    let (outcome, code) = json(language, code, options);
    assert_eq!(code, 0, "{outcome:#}");
    assert_eq!(outcome["accelerator"], "kvm", "{outcome:#}");
    outcome
}

fn stdout(outcome: &Value) -> &str {
    outcome["stdout"].as_str().unwrap()
}

/// Builds the template of a language, unless it exists.
fn build_template(language: &str) {
    let mut command = fumehood();
    command.args(["template", "build", "--no-network", "-l", language]);
    let output = finish(command);
    assert!(output.status.success(), "{output:?}");
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

#[test]
fn doctor_and_runs_choose_kvm() {
    if !is_emulated_host() {
        return;
    }

    let doctor = || {
        let mut command = fumehood();
        command.arg("doctor");
        String::from_utf8(finish(command).stdout).unwrap()
    };

    // The verdict of the first probe stands, down to its time.
    let accelerator = |text: &str| {
        let mut lines = text.lines().map(str::to_owned);
        lines.find(|line| line.contains("accelerator:")).unwrap()
    };
    let first = doctor();
    assert!(
        accelerator(&first).contains("kvm: a probe guest ran on the CPU"),
        "{first}"
    );
    assert!(first.contains("isolation full"), "{first}");
    assert_eq!(accelerator(&first), accelerator(&doctor()));

    run("shell", "true", &["--boot"]);
}

/// Root gives QEMU a user of its own, though only root may open the device.
#[test]
fn a_booted_guest_has_all_layers_the_right_clock_and_no_virtualisation() {
    if !is_emulated_host() {
        return;
    }

    set_device(0o600, 0);
    let code = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource
        grep -c -w -e svm -e vmx /proc/cpuinfo
        date +%s.%N";
    let before = now();
    let outcome = run("shell", &format!("{code}\ntrue"), &["--boot"]);
    let after = now();
    set_device(0o666, 0);

    assert_eq!(outcome["source"], "boot", "{outcome:#}");
    assert_eq!(outcome["isolation"], "full", "{outcome:#}");
    let lines: Vec<&str> = stdout(&outcome).lines().collect();
    assert_eq!(lines[..2], ["kvm-clock", "0"]);
    let reported: f64 = lines[2].parse().unwrap();
    assert!(
        (before..=after).contains(&reported),
        "{before} {reported} {after}"
    );
}

#[test]
fn root_isolates_qemu_whoever_may_open_the_device() {
    const KVM_GROUP: u32 = 107;
    if !is_emulated_host() {
        return;
    }

    for (mode, gid) in [(0o660, 0), (0o660, KVM_GROUP), (0o666, 0)] {
        set_device(mode, gid);
        let outcome = run("shell", "echo here", &["--boot"]);
        assert_eq!(outcome["isolation"], "full", "{mode:o} {gid}: {outcome:#}");
        assert_eq!(stdout(&outcome), "here\n");
    }
    set_device(0o666, 0);
}

/// Runs code as an ordinary user with these groups. That user reads the image of the store, but none of its templates.
fn run_as_nobody(groups: &str) -> Value {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", groups])
        .arg(program())
        .args(["run", "--json", "-l", "shell", "-c", "id -u"])
        .env("FUMEHOOD_NO_SERVER", "1");

    let output = finish(command);
    let outcome = serde_json::from_slice(&output.stdout);
    outcome.unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

#[test]
fn an_ordinary_user_uses_a_device_that_it_may_open() {
    const KVM_GROUP: u32 = 107;
    if !is_emulated_host() {
        return;
    }

    set_device(0o660, KVM_GROUP);
    let member = run_as_nobody("--groups=107");
    assert_eq!(member["accelerator"], "kvm", "{member:#}");
    assert_eq!(stdout(&member), "1000\n");

    // Only the cgroup that nobody has delegated to this user is missing.
    let missing = &member["isolation"]["reduced"];
    assert_eq!(*missing, serde_json::json!(["cgroup"]), "{member:#}");
    set_device(0o666, 0);
}

#[test]
fn an_ordinary_user_without_access_gets_emulation() {
    if !is_emulated_host() {
        return;
    }

    // `doctor` selects as runs do; a run of an emulator in an emulator takes minutes.
    set_device(0o600, 0);
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program())
        .arg("doctor");
    let output = finish(command);
    set_device(0o666, 0);

    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "tcg: software emulation, because cannot open /dev/kvm";
    assert!(text.contains(expected), "{text}");
}

/// Restored guests have the time of day, clocks that advance, and randomness of their own.
#[test]
fn restored_guests_have_their_own_time_and_randomness() {
    if !is_emulated_host() {
        return;
    }

    build_template("shell");
    let code = "date +%s.%N; read -r up rest < /proc/uptime; echo $up
        sleep 1
        date +%s.%N; read -r up rest < /proc/uptime; echo $up
        head -c 8 /dev/urandom | od -An -tx8; cat /proc/sys/kernel/random/boot_id";

    let mut seen = Vec::new();
    for _ in 0..2 {
        let before = now();
        let outcome = run("shell", code, &[]);
        let after = now();
        assert_eq!(outcome["source"], "template", "{outcome:#}");
        assert_eq!(outcome["isolation"], "full", "{outcome:#}");

        let lines: Vec<String> = stdout(&outcome).lines().map(str::to_owned).collect();
        let times: Vec<f64> = lines[..4]
            .iter()
            .map(|line| line.parse().unwrap())
            .collect();
        let [wall, up, later_wall, later_up] = times[..] else {
            unreachable!()
        };
        assert!(
            before <= wall && later_wall <= after,
            "{before} {lines:?} {after}"
        );
        // A second of the guest is a second of the host, by both clocks; the guest's uptime has hundredths.
        assert!(later_wall - wall >= 1.0, "{lines:?}");
        let (by_wall, by_uptime) = (later_wall - wall, later_up - up);
        assert!((by_wall - by_uptime).abs() < 0.3, "{lines:?}");

        assert!(
            !seen.contains(&lines[4]) && !seen.contains(&lines[5]),
            "{lines:?}"
        );
        seen.extend(lines);
    }
}

/// The warm interpreters of the other languages survive a restore under KVM.
#[test]
fn restored_interpreters_run_programs() {
    if !is_emulated_host() {
        return;
    }

    for (language, code) in [
        (
            "python",
            "import time, random; print(6 * 7, time.time(), random.random())",
        ),
        (
            "javascript",
            "console.log(6 * 7, Date.now() / 1000, Math.random())",
        ),
    ] {
        build_template(language);
        let mut draws = Vec::new();
        for _ in 0..2 {
            let before = now();
            let outcome = run(language, code, &[]);
            assert_eq!(outcome["source"], "template", "{outcome:#}");
            let words: Vec<&str> = stdout(&outcome).split_whitespace().collect();
            let time: f64 = words[1].parse().unwrap();

            assert_eq!(words[0], "42");
            // JavaScript's clock has milliseconds.
            assert!(
                (before - 0.002..=now() + 0.002).contains(&time),
                "{words:?}"
            );
            assert!(!draws.contains(&words[2].to_owned()), "{draws:?}");
            draws.push(words[2].to_owned());
        }
    }
}
