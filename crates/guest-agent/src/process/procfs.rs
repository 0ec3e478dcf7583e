use std::fs;

/// One process in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessEntry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
}

/// Lists every visible process that is alive. Zombies are left out.
pub(crate) fn processes() -> Vec<ProcessEntry> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };

    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            parse(pid, &fs::read_to_string(entry.path().join("stat")).ok()?)
        })
        .collect()
}

/// Returns the number of pages that a process has in memory; 0 if it is gone.
pub(crate) fn resident_pages(pid: i32) -> u64 {
    let sizes = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    sizes
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0)
}

/// Maximum length of a command line, in characters.
const COMMAND_CHARS: usize = 200;

/// Returns the command line of a process, with spaces between the arguments; empty if it is gone.
pub(crate) fn command_line(pid: i32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let shown = words.trim_end_matches('\0').chars().take(COMMAND_CHARS);
    shown.map(|c| if c == '\0' { ' ' } else { c }).collect()
}

/// Returns the name of a process, as it has set it; `None` if it is gone.
pub(crate) fn name(pid: i32) -> Option<Vec<u8>> {
    let mut name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    name.pop_if(|last| *last == b'\n');
    Some(name)
}

/// Returns the milliseconds since a process was started, to the kernel's resolution of 10 ms; 0 if it is gone.
pub(crate) fn age_ms(pid: i32) -> u64 {
    const TICKS: f64 = 100.0;
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = uptime.split(' ').next().and_then(|s| s.parse::<f64>().ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let started = stat.rsplit_once(") ").and_then(|(_, fields)| {
        let ticks = fields.split(' ').nth(19)?.parse::<f64>().ok()?;
        Some(ticks / TICKS)
    });

    let seconds = uptime.zip(started).map_or(0.0, |(now, then)| now - then);

    u64::try_from(std::time::Duration::from_secs_f64(seconds.max(0.0)).as_millis()).unwrap_or(0)
}

/// Parses `pid (name) state parent group session …`. The name may contain any character.
fn parse(pid: i32, stat: &str) -> Option<ProcessEntry> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }

    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;

    Some(ProcessEntry {
        pid,
        parent,
        session,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_parentheses_is_parsed() {
        let entry = parse(7, "7 (a) Z 9 (b) ) S 1 2 3 0 -1 4194304").unwrap();
        assert_eq!(
            entry,
            ProcessEntry {
                pid: 7,
                parent: 1,
                session: 3
            }
        );
        assert_eq!(parse(7, "7 (x) Z 1 2 3 0"), None);
        assert_eq!(parse(7, ""), None);
    }

    #[test]
    fn lists_this_process() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(processes().iter().any(|entry| entry.pid == own));
    }
}
