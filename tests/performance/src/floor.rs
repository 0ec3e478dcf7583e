//! The floor of restores: QEMU and a minimal guest, without any of fumehood's isolation.
//!
//! The guest is seventeen bytes of machine code. It echoes each byte that arrives on its serial port. Changes
//! of our kernel, agent or launcher do not affect its speed.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fumehood_qemu::{
    Accel, Chardev, CommandLine, Cpu, Event, GuestMemory, GuestRange, Kernel, Machine, Memory,
    Monitor, Qmp, Serial,
};
use fumehood_sys::host::{memory_file, seal, sealable_file};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// The guest's memory in MiB, as in a default run.
const MEMORY_MIB: u32 = 512;
/// The size of the translation buffer in MiB, as in a run.
const TB_SIZE_MIB: u32 = 128;
/// The time for the guest's answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// `again: in al,[0x3fd]; test al,1; jz again; in al,[0x3f8]; out [0x3f8],al; jmp again`
const ECHO: [u8; 17] = [
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb,
    0xef,
];

/// The address at which the code is loaded and starts.
const ENTRY: u32 = 0x0010_0000;

/// Returns a kernel that QEMU starts through PVH: an ELF header, a segment with the code, and a note with the
/// entry point.
fn kernel() -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 20;
    let mut elf = Vec::new();
    elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    elf.extend(2_u16.to_le_bytes()); // an executable
    elf.extend(62_u16.to_le_bytes()); // for x86-64
    elf.extend(1_u32.to_le_bytes());
    elf.extend(u64::from(ENTRY).to_le_bytes());
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes());
    elf.extend(0_u32.to_le_bytes());

    for half in [64_u16, 56, 2, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }

    let mut segment = |kind: u32, flags: u32, offset: u64, address: u64, size: u64| {
        elf.extend(kind.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [offset, address, address, size, size, 4] {
            elf.extend(word.to_le_bytes());
        }
    };
    segment(1, 5, HEADERS + NOTE, u64::from(ENTRY), ECHO.len() as u64);
    segment(4, 4, HEADERS, 0, NOTE);

    // XEN_ELFNOTE_PHYS32_ENTRY of "Xen".
    for word in [4_u32, 4, 18] {
        elf.extend(word.to_le_bytes());
    }

    elf.extend(b"Xen\0");
    elf.extend(ENTRY.to_le_bytes());
    elf.extend(ECHO);

    elf
}

/// The saved state of a floor guest.
pub(crate) struct FloorGuest {
    qemu: PathBuf,
    ram: File,
    state: Vec<u8>,
}

/// A running QEMU with its guest. Dropping it kills QEMU.
struct Guest {
    child: Child,
    serial: UnixStream,
    qmp: Qmp,
    events: mpsc::Receiver<Event>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl FloorGuest {
    /// Starts the guest once and saves its state.
    pub(crate) async fn save(qemu: &Path) -> anyhow::Result<Self> {
        let mut file = memory_file("floor-kernel")?;
        file.write_all(&kernel())?;
        let image = OwnedFd::from(file);
        let number = image.as_raw_fd();
        let mut guest =
            start_qemu(qemu, |line| line.with(&Kernel(number)), &[image.as_fd()]).await?;
        echo(&mut guest.serial).await?;

        // The devices' state.
        let qmp = &guest.qmp;
        qmp.execute("stop", Value::Null).await?;
        let mut file = memory_file("floor-state")?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let write_only = File::options().write(true).open(path)?;
        let added = qmp.submit_with_fd("add-fd", Value::Null, write_only.as_fd());
        let set = added.await?.answer().await?["fdset-id"].clone();
        let save = json!({ "filename": format!("/dev/fdset/{set}"), "live": false });
        qmp.execute("xen-save-devices-state", save).await?;
        let mut state = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut state)?;

        // The memory, sealed so that no restored guest can change it.
        let ram = sealable_file("floor-memory")?;
        let bytes = u64::from(MEMORY_MIB) << 20;
        ram.set_len(bytes)?;
        let pid = guest.child.id();
        let memory = GuestMemory::open(pid, GuestRange::find(pid, bytes)?)?;
        memory.copy_private_pages(&ram, true)?;
        seal(&ram)?;

        Ok(Self {
            qemu: qemu.to_path_buf(),
            ram,
            state,
        })
    }

    /// Starts QEMU, restores the guest and waits for its answer to a byte. Returns the time that this took.
    pub(crate) async fn restore(&self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let number = self.ram.as_raw_fd();
        let mut guest = start_qemu(&self.qemu, CommandLine::waiting, &[self.ram.as_fd()]).await?;

        let mut state = memory_file("floor-state")?;
        state.write_all(&self.state)?;
        state.rewind()?;
        let backend = json!({
            "qom-type": "memory-backend-file", "id": "mem", "share": false,
            "size": u64::from(MEMORY_MIB) << 20, "mem-path": format!("/proc/self/fd/{number}"),
        });

        let property = json!({ "path": "/machine", "property": "memory-backend", "value": "mem" });
        let qmp = &guest.qmp;
        let _pending = [
            qmp.submit("object-add", backend).await?,
            qmp.submit("qom-set", property).await?,
            qmp.submit("x-exit-preconfig", Value::Null).await?,
            qmp.submit_with_fd("getfd", json!({ "fdname": "state" }), state.as_fd())
                .await?,
            qmp.submit("migrate-incoming", json!({ "uri": "fd:state" }))
                .await?,
        ];

        // The state would overwrite a byte that arrived before it.
        while let Some(event) = guest.events.recv().await {
            if event.event == "RESUME" {
                break;
            }
        }

        echo(&mut guest.serial).await?;

        Ok(start.elapsed())
    }
}

/// Sends a byte and waits for the guest's answer.
async fn echo(serial: &mut UnixStream) -> anyhow::Result<()> {
    serial.write_all(b"?").await?;
    let answer = tokio::time::timeout(DEADLINE, serial.read_u8()).await;
    ensure!(answer.context("the floor guest did not answer in time")?? == b'?');
    Ok(())
}

/// Starts QEMU with a serial port and a monitor on socket pairs.
async fn start_qemu(
    qemu: &Path,
    add_options: impl FnOnce(CommandLine) -> CommandLine,
    inherit: &[std::os::fd::BorrowedFd<'_>],
) -> anyhow::Result<Guest> {
    let (serial, serial_of_qemu) = StdStream::pair()?;
    let (monitor, monitor_of_qemu) = StdStream::pair()?;
    let socket = |id: &str, fd: &StdStream| Chardev {
        id: id.into(),
        fd: fd.as_raw_fd(),
    };

    let line = CommandLine::minimal()
        .with(&Machine::Microvm { acpi: false })
        .with(&Accel::Tcg {
            tb_size_mib: TB_SIZE_MIB,
        })
        .with(&Cpu::Max)
        .with(&Memory(MEMORY_MIB))
        .with(&socket("serial", &serial_of_qemu))
        .with(&Serial {
            chardev: "serial".into(),
        })
        .with(&socket("monitor", &monitor_of_qemu))
        .with(&Monitor {
            chardev: "monitor".into(),
        });

    let qemu_ends = [serial_of_qemu.as_fd(), monitor_of_qemu.as_fd()];
    let inherited: Vec<_> = inherit.iter().chain(&qemu_ends).collect();

    // QEMU inherits these descriptors; no other child may.
    for fd in &inherited {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }

    let mut command = Command::new(qemu);
    command
        .args(add_options(line).into_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null());

    let spawned = command.spawn();
    for fd in &inherited {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    }

    let child = spawned?;

    let to_async = |socket: StdStream| {
        socket.set_nonblocking(true)?;
        UnixStream::from_std(socket)
    };

    let (qmp, events) = Qmp::connect(to_async(monitor)?).await?;

    Ok(Guest {
        child,
        serial: to_async(serial)?,
        qmp,
        events,
    })
}
