//! Becomes a process that was saved as an image.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use anyhow::Context;
use fumehood_sys::host::{
    Continuation, DescriptorPlacement, KernelMapping, duplicate_inherited, kernel_mappings,
    place_descriptors, signal_descriptor,
};
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::filter;
use crate::launch_spec::ContinueSpec;
use crate::process_image::{DescriptorKind, MAX_IMAGE_BYTES, ProcessImage};

/// An image, with everything that must be created before the isolation.
#[derive(Debug)]
pub(crate) struct PreparedImage {
    image: ProcessImage,
    kernel_mappings: Vec<KernelMapping>,
    files: Vec<RawFd>,
    placements: Vec<DescriptorPlacement>,
    /// The new descriptors among the placements.
    created: Vec<OwnedFd>,
}

impl PreparedImage {
    /// Reads and checks an image, and creates its descriptors.
    pub(crate) fn load(spec: &ContinueSpec) -> anyhow::Result<Self> {
        let image = read_image(spec.image).context("cannot read the process image")?;
        image
            .check(spec.files.len(), spec.descriptors.len())
            .map_err(anyhow::Error::msg)?;

        let mut created = Vec::new();
        let mut placements = Vec::new();
        for descriptor in &image.descriptors {
            let source = match descriptor.kind {
                DescriptorKind::Passed(index) => spec.descriptors[index],
                other => {
                    let new = create_descriptor(other)?;
                    let number = new.as_raw_fd();
                    created.push(new);
                    number
                }
            };
            placements.push(DescriptorPlacement {
                source,
                target: descriptor.number,
                nonblocking: descriptor.nonblocking,
            });
        }

        let maps = std::fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
        Ok(Self {
            image,
            kernel_mappings: kernel_mappings(&maps),
            files: spec.files.clone(),
            placements,
            created,
        })
    }

    /// Becomes the process of the image, behind the filter. Returns only if the image does not fit. Later failures end this
    /// process with a message on standard error, since its descriptors, that of its owner too, are closed then.
    pub(crate) fn become_process(self) -> anyhow::Error {
        let prepare = || {
            let continuation =
                Continuation::new(&self.kernel_mappings, &self.image.kernel_mappings);
            let filter = filter::without_startup()?;
            Ok::<_, anyhow::Error>((continuation.map_err(anyhow::Error::msg)?, filter))
        };
        let (continuation, filter) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };

        let error = self.continue_from_here(continuation, &filter);
        let _ = writeln!(
            std::io::stderr(),
            "cannot continue a process image: {error}"
        );
        std::process::exit(1)
    }

    /// Closes the descriptors of this process and replaces it. Returns only on failure.
    fn continue_from_here(self, mut continuation: Continuation, filter: &[u8]) -> io::Error {
        let Self {
            image,
            files,
            placements,
            created,
            ..
        } = self;
        // Their numbers are used for others.
        std::mem::forget(created);
        let files = match place_descriptors(&files, &placements) {
            Ok(files) => files,
            Err(error) => return error,
        };

        for mapping in &image.mappings {
            let file = mapping.file.map(|index| (files[index], mapping.offset));
            continuation.map(mapping.address, mapping.bytes, mapping.protection, file);
        }
        for (address, bytes) in &image.written_first {
            continuation.populate(*address, *bytes);
        }
        continuation.close_files();

        continuation.handle_signals(&image.signals);
        continuation.set_layout(&image.layout);
        continuation.filter(filter);
        continuation.run(std::process::id(), &image.threads)
    }
}

/// Creates a descriptor of this kind.
fn create_descriptor(kind: DescriptorKind) -> anyhow::Result<OwnedFd> {
    Ok(match kind {
        DescriptorKind::Null => File::open("/dev/null")?.into(),
        DescriptorKind::EventFd(count) => eventfd(count, EventfdFlags::CLOEXEC)?,
        DescriptorKind::SignalFd(mask) => signal_descriptor(mask)?,
        DescriptorKind::Epoll => epoll::create(epoll::CreateFlags::CLOEXEC)?,
        DescriptorKind::Passed(_) => anyhow::bail!("the owner passes this descriptor"),
    })
}

fn read_image(fd: RawFd) -> anyhow::Result<ProcessImage> {
    let file = duplicate_inherited(fd)?;
    let file = File::from(file);
    let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    anyhow::ensure!(
        bytes <= MAX_IMAGE_BYTES,
        "it has {bytes} bytes; at most {MAX_IMAGE_BYTES} are allowed"
    );

    let mut text = vec![0; bytes];
    file.read_exact_at(&mut text, 0)?;
    Ok(serde_json::from_slice(&text)?)
}
