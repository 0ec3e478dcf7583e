use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use fumehood_protocol::{
    Change, ChangeKind, Done, OpId, Response, Watch, Watching as Answer, WireError,
};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::agent::Agent;
use crate::connection::Connection;
use crate::outbox::Outbox;

use super::transfer::Step;
use super::write::PREFIX;
use super::{Transfer, not_of_processes, open, refused};

/// A directory whose changes are told.
#[derive(Debug)]
pub(crate) struct Watching {
    pub(crate) op_id: Option<OpId>,
    inotify: OwnedFd,
    request: Watch,
    /// The directories that are watched, by the kernel's number: the path of each below the first, with a `/`
    /// at its end. None is held open: the kernel tells of the end of one that nobody holds.
    places: HashMap<i32, String>,
    is_readable: bool,
    last: Option<(ChangeKind, String)>,
}

/// Events are read as the kernel packs them, some hundred at once.
const BUFFER_BYTES: usize = 8192;

/// Begins to watch a directory or a file.
///
/// # Errors
/// `path_error`.
pub(crate) fn watch(
    connection: &mut Connection,
    request: Watch,
    agent: &Agent,
) -> Result<(), WireError> {
    request.path.check(&agent.settings.limits)?;
    let refuse = refused("watch", &request.path, agent);
    let opened = open(request.path.as_str(), OFlags::RDONLY, agent).map_err(&refuse)?;
    let flags = CreateFlags::NONBLOCK | CreateFlags::CLOEXEC;
    let mut watching = Watching {
        op_id: request.op_id,
        inotify: inotify::init(flags).map_err(&refuse)?,
        places: HashMap::new(),
        request: request.clone(),
        is_readable: false,
        last: None,
    };
    watching
        .add(opened, String::new(), agent)
        .map_err(&refuse)?;
    let op_id = request.op_id;
    connection
        .outbox
        .answer(&Response::Watching(Answer { op_id }));
    connection.transfers.push(Transfer::Watch(watching));
    Ok(())
}

impl Watching {
    pub(super) fn awaited(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    pub(super) fn has_work(&self) -> bool {
        self.is_readable
    }

    /// The kernel has something to tell.
    pub(crate) fn is_readable(&mut self) {
        self.is_readable = true;
    }

    /// Watches a directory, and those below it where that was asked for.
    fn add(&mut self, opened: OwnedFd, prefix: String, agent: &Agent) -> rustix::io::Result<()> {
        let mut open = vec![(opened, prefix)];
        let most = agent.settings.limits.watched_directories;
        while let Some((directory, prefix)) = open.pop() {
            if self.places.len() as u64 >= most {
                return Err(Errno::NOSPC);
            }
            if self.request.recursive {
                let room = most.saturating_sub((self.places.len() + open.len()) as u64);
                open.extend(below(&directory, &prefix, room, agent));
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
            self.places.insert(number, prefix);
        }
        Ok(())
    }

    /// Tells what has changed.
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
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut is_over = false;
        while let Ok(event) = reader.next() {
            let name = event
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            is_over |= self.event(event.wd(), event.events(), name, outbox, agent);
            if reader.is_buffer_empty() && outbox.is_full(&agent.settings.limits) {
                self.is_readable = true;
                break;
            }
        }
        self.last = None;
        if !is_over {
            return Step::More;
        }
        let op_id = self.op_id;
        outbox.answer(&Response::Done(Done { op_id }));
        Step::Done
    }

    /// One event. True: what is watched has gone.
    fn event(
        &mut self,
        number: i32,
        events: ReadFlags,
        name: Option<String>,
        outbox: &mut Outbox,
        agent: &Agent,
    ) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.tell(ChangeKind::Overflow, String::new(), outbox);
            return false;
        }
        let Some(prefix) = self.places.get(&number) else {
            return false;
        };
        let is_first = prefix.is_empty();
        if events.contains(ReadFlags::MOVE_SELF) && !is_first {
            // Where it has gone to is told by the directories above.
            return false;
        }
        if events.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED) {
            self.places.remove(&number);
            if is_first {
                self.tell(ChangeKind::Removed, String::new(), outbox);
            }
            return is_first;
        }
        let name = name.unwrap_or_default();
        if name.starts_with(PREFIX) {
            return false;
        }
        let path = [prefix.as_str(), &name].concat();
        let kind = if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            if self.request.recursive && events.contains(ReadFlags::ISDIR) {
                self.add_new(&path, agent);
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
        self.tell(kind, path, outbox);
        false
    }

    /// A directory was made below one that is watched. What is in it already is not told.
    fn add_new(&mut self, path: &str, agent: &Agent) {
        let whole = [self.request.path.as_str(), "/", path].concat();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Ok(opened) = open(&whole, flags, agent) {
            // One that cannot be watched is told of, but not what happens in it.
            let _ = self.add(opened, format!("{path}/"), agent);
        }
    }

    /// A directory has gone from its place, with those below it.
    fn forget(&mut self, prefix: &str) {
        let gone = self
            .places
            .iter()
            .filter(|(_, place)| place.starts_with(prefix));
        for number in gone.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.places.remove(&number);
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }

    /// Tells a change once, however often it comes in a row.
    fn tell(&mut self, kind: ChangeKind, path: String, outbox: &mut Outbox) {
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

/// The directories in this one that can be opened, with their paths.
fn below(directory: &OwnedFd, prefix: &str, room: u64, agent: &Agent) -> Vec<(OwnedFd, String)> {
    let read = || {
        let entries = Dir::read_from(directory).into_iter().flatten().flatten();
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.file_name();
            let is_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
            if matches!(name.to_bytes(), b"." | b"..") || !is_directory {
                continue;
            }
            if found.len() as u64 > room {
                break;
            }
            let opened = openat(directory, name, DIRECTORY, Mode::empty());
            if let Ok(opened) = opened.and_then(not_of_processes) {
                found.push((opened, format!("{prefix}{}/", name.to_string_lossy())));
            }
        }
        found
    };
    agent.confinement.as_user(read)
}
