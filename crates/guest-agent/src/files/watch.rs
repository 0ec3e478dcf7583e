use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{Change, ChangeKind, Done, OpId, Response, Watch, WireError};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use super::path::{open_path, path_error, reject_procfs};
use super::step::Step;
use super::write::UPLOAD_PREFIX;
use crate::agent::Agent;
use crate::transport::Outbox;

/// A directory whose changes are reported.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    pub(crate) op_id: Option<OpId>,
    inotify: OwnedFd,
    request: Watch,
    /// The watched directories by inotify watch descriptor: the path of each relative to the first, with a trailing
    /// `/`. None is held open, because the kernel only reports the removal of a directory that no one holds.
    watched: HashMap<i32, String>,
    is_readable: bool,
    /// The change that was reported last.
    last: Option<(ChangeKind, String)>,
}

/// Size of the buffer for events, in bytes. It holds some hundred events.
const BUFFER_BYTES: usize = 8192;

impl DirectoryWatch {
    /// Starts to watch a directory or a file.
    ///
    /// # Errors
    /// `path_error`.
    pub(crate) fn start(request: Watch, agent: &Agent) -> Result<Self, WireError> {
        let error = path_error("watch", &request.path, agent);
        let opened = open_path(request.path.as_str(), OFlags::RDONLY, agent).map_err(&error)?;
        let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
        let mut watch = Self {
            op_id: request.op_id,
            inotify: inotify::init(flags).map_err(&error)?,
            watched: HashMap::new(),
            request: request.clone(),
            is_readable: false,
            last: None,
        };
        watch.add(opened, String::new(), agent).map_err(&error)?;

        Ok(watch)
    }

    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    pub(super) fn has_work(&self) -> bool {
        self.is_readable
    }

    /// Notes that the kernel has events.
    pub(crate) fn set_readable(&mut self) {
        self.is_readable = true;
    }

    /// Watches a directory, and for a recursive watch those below it.
    fn add(&mut self, opened: OwnedFd, prefix: String, agent: &Agent) -> rustix::io::Result<()> {
        let mut open = vec![(opened, prefix)];
        let max = agent.settings.limits.watched_directories;

        while let Some((directory, prefix)) = open.pop() {
            if self.watched.len() as u64 >= max {
                return Err(Errno::NOSPC);
            }

            // Subdirectories are opened now and watched in later rounds.
            if self.request.recursive {
                let capacity = max.saturating_sub((self.watched.len() + open.len()) as u64);
                open.extend(open_subdirectories(&directory, &prefix, capacity, agent));
            }

            let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
            let flags = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF;

            let number = inotify::add_watch(&self.inotify, path, flags)?;
            self.watched.insert(number, prefix);
        }

        Ok(())
    }

    /// Reports the changes since the last step.
    pub(super) fn step(&mut self, outbox: &mut Outbox, agent: &Agent) -> Step {
        if !self.is_readable {
            return Step::More;
        }

        self.is_readable = false;
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let inotify = self.inotify.try_clone();
        let Ok(inotify) = inotify else {
            return Step::More;
        };

        // Read until the kernel has no more events or the client must catch up.
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut has_ended = false;
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            has_ended |= self.handle_event(event.wd(), event.events(), name, outbox, agent);
            if reader.is_buffer_empty() && outbox.is_full(&agent.settings.limits) {
                self.is_readable = true;
                break;
            }
        }

        self.last = None;
        if !has_ended {
            return Step::More;
        }

        // The watched file itself is gone, so the watch ends.
        let op_id = self.op_id;
        outbox.answer(&Response::Done(Done { op_id }));

        Step::Done
    }

    /// Handles one event. Returns whether the watched file itself is gone.
    fn handle_event(
        &mut self,
        number: i32,
        events: ReadFlags,
        name: Option<String>,
        outbox: &mut Outbox,
        agent: &Agent,
    ) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.report(ChangeKind::Overflow, String::new(), outbox);
            return false;
        }

        let Some(prefix) = self.watched.get(&number) else {
            return false;
        };

        let is_first = prefix.is_empty();
        if events.contains(ReadFlags::MOVE_SELF) && !is_first {
            // The watch of the directory above reports the move.
            return false;
        }

        if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            self.watched.remove(&number);
            if is_first {
                self.report(ChangeKind::Removed, String::new(), outbox);
            }
            return is_first;
        }

        let name = name.unwrap_or_default();
        if name.starts_with(UPLOAD_PREFIX) {
            return false;
        }

        let path = [prefix.as_str(), &name].concat();
        let kind = if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if self.request.recursive && events.contains(ReadFlags::ISDIR) {
                self.add_created(&path, agent);
            }
            ChangeKind::Created
        } else if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            if events.contains(ReadFlags::ISDIR) {
                self.forget(&format!("{path}/"));
            }
            ChangeKind::Removed
        } else if events.contains(ReadFlags::MODIFY) {
            ChangeKind::Modified
        } else {
            ChangeKind::Attributes
        };

        self.report(kind, path, outbox);

        false
    }

    /// Watches a new subdirectory. Its existing contents are not reported.
    fn add_created(&mut self, path: &str, agent: &Agent) {
        let whole = [self.request.path.as_str(), "/", path].concat();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Ok(opened) = open_path(&whole, flags, agent) {
            // If it cannot be watched, only its creation is reported.
            let _ = self.add(opened, format!("{path}/"), agent);
        }
    }

    /// Stops watching a directory that was removed or moved away, and those below it.
    fn forget(&mut self, prefix: &str) {
        let gone = self
            .watched
            .iter()
            .filter(|(_, path)| path.starts_with(prefix));

        for number in gone.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.watched.remove(&number);
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }

    /// Reports a change, unless it equals the one before.
    fn report(&mut self, kind: ChangeKind, path: String, outbox: &mut Outbox) {
        let change = Some((kind, path));
        if change == self.last {
            return;
        }

        let path = change.as_ref().map(|(_, path)| path.clone());
        self.last = change;
        outbox.answer(&Response::Change(Change {
            op_id: self.op_id,
            kind,
            path: path.unwrap_or_default(),
        }));
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the subdirectories that the user can open, and returns them with their paths.
fn open_subdirectories(
    directory: &OwnedFd,
    prefix: &str,
    capacity: u64,
    agent: &Agent,
) -> Vec<(OwnedFd, String)> {
    let read = || {
        let entries = Dir::read_from(directory).into_iter().flatten().flatten();
        let mut found = Vec::new();

        for entry in entries {
            let name = entry.file_name();
            let is_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if matches!(name.to_bytes(), b"." | b"..") || !is_directory {
                continue;
            }

            if found.len() as u64 > capacity {
                break;
            }

            let opened = openat(directory, name, DIRECTORY, Mode::empty());
            if let Ok(opened) = opened.and_then(reject_procfs) {
                found.push((opened, format!("{prefix}{}/", name.to_string_lossy())));
            }
        }

        found
    };

    agent.confinement.as_user(read)
}
