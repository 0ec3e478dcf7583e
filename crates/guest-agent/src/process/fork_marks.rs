use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Instant;

/// Maximum size of one mark that is cleared, in bytes. Libraries use one page; a program that marks more memory only
/// harms itself.
const MAX_MARK_BYTES: u64 = 64 * 1024;
/// Maximum number of marks of one process.
const MAX_MARKS: usize = 256;
/// Maximum length of a line in `/proc/PID/smaps`, in bytes: a path of 4 KiB in which each byte is escaped.
const MAX_LINE_BYTES: usize = 20 * 1024;

/// The memory by which a process notices that it is a copy: the kernel hands it to a forked child as zeros
/// (`MADV_WIPEONFORK`). Random generators that see zeros there start from a new seed. The copy of a whole VM is no fork
/// for its kernel, so the agent clears that memory itself.
#[derive(Debug)]
pub(crate) struct ForkMarks {
    pid: i32,
    ranges: Vec<Range<u64>>,
}

impl ForkMarks {
    /// Finds the marks of a process, which must be frozen. A process without any, or that is gone, has none.
    ///
    /// # Errors
    /// `TimedOut` after `deadline`: a program can have very many mappings.
    pub(crate) fn find(pid: i32, deadline: Instant) -> io::Result<Option<Self>> {
        let Ok(file) = File::open(format!("/proc/{pid}/smaps")) else {
            return Ok(None);
        };

        let ranges = parse(BufReader::with_capacity(64 * 1024, file), deadline)?;

        Ok((!ranges.is_empty()).then_some(Self { pid, ranges }))
    }

    /// Fills the marks with zeros.
    pub(crate) fn clear(&self) {
        let path = format!("/proc/{}/mem", self.pid);
        // A process that was killed has no generator.
        let Ok(memory) = File::options().write(true).open(path) else {
            return;
        };

        for range in &self.ranges {
            let len = usize::try_from(range.end - range.start).unwrap_or(0);
            let _ = memory.write_all_at(&vec![0; len], range.start);
        }
    }
}

/// Returns the marks in the text of `/proc/PID/smaps`: blocks of lines, one block for each mapping, which starts with
/// its addresses and ends with its flags.
fn parse(mut smaps: impl BufRead, deadline: Instant) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut mapping = None;
    let mut is_present = false;
    let mut line = Vec::new();

    while ranges.len() < MAX_MARKS {
        line.clear();
        let mut limited = io::Read::take(&mut smaps, MAX_LINE_BYTES as u64);
        // A process that ends meanwhile is an error of the kernel, and has no generator any more.
        if !matches!(limited.read_until(b'\n', &mut line), Ok(1..)) {
            break;
        }

        if let Some(found) = parse_header(&line) {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            mapping = found;
            is_present = false;
        } else if let Some(size) = line.strip_prefix(b"Rss:") {
            // A mark that was never written is zero already, and a write would take memory.
            is_present = size.trim_ascii() != b"0 kB";
        } else if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let has = |flag: &[u8]| flags.split(u8::is_ascii_whitespace).any(|f| f == flag);
            // The kernel itself invalidates memory that it may drop ("dp"): it holds numbers of the kernel's generator.
            if is_present
                && has(b"wf")
                && !has(b"dp")
                && let Some(range) = mapping.take()
            {
                ranges.push(range);
            }
        }
    }

    Ok(ranges)
}

/// Parses the first line of a mapping, `START-END PERMISSIONS …`. Returns `None` for another line, and no range for a
/// mapping that cannot hold a mark.
#[allow(clippy::option_option, reason = "two different answers")]
fn parse_header(line: &[u8]) -> Option<Option<Range<u64>>> {
    if !line.first()?.is_ascii_digit() && !matches!(line[0], b'a'..=b'f') {
        return None;
    }

    let mut fields = line.split(|byte| *byte == b' ');
    let (start, end) = std::str::from_utf8(fields.next()?).ok()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let is_private_data = fields.next()? == b"rw-p";
    let is_small = end.checked_sub(start)? <= MAX_MARK_BYTES;

    Some((is_private_data && is_small).then_some(start..end))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn block(header: &str, rss: &str, flags: &str) -> String {
        format!("{header} 00000000 00:00 0 \nRss:  {rss}\nVmFlags: {flags} \n")
    }

    #[test]
    fn only_small_private_marks_that_are_present_are_found() {
        let smaps = [
            block("1000-2000 rw-p", "4 kB", "rd wr mr wf"),
            block("3000-4000 rw-p", "4 kB", "rd wr mr"),
            block("5000-6000 rw-p", "0 kB", "rd wr mr wf"),
            block("7000-8000 rw-s", "4 kB", "rd wr mr wf"),
            block("9000-a000 rw-p", "4 kB", "rd wr mr wf dp"),
            block("a00000-b00000 rw-p", "4 kB", "rd wr mr wf"),
            block("f000-d000 rw-p", "4 kB", "rd wr mr wf"),
            block("7fff00001000-7fff00003000 rw-p", "8 kB", "wf rd"),
        ];
        let found = parse(smaps.concat().as_bytes(), soon()).unwrap();
        assert_eq!(found, [0x1000..0x2000, 0x7fff_0000_1000..0x7fff_0000_3000]);
    }

    #[test]
    fn hostile_mappings_are_bounded() {
        let many = block("1000-2000 rw-p", "4 kB", "wf").repeat(MAX_MARKS + 10);
        assert_eq!(parse(many.as_bytes(), soon()).unwrap().len(), MAX_MARKS);

        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        let error = parse(many.as_bytes(), past).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);

        let long = [b"1000-2000 rw-p ".as_slice(), &[b'x'; 1 << 20]].concat();
        assert_eq!(parse(long.as_slice(), soon()).unwrap(), []);
    }

    #[test]
    fn the_marks_of_another_process_become_zeros() {
        let program = "
import mmap, sys
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
mark, other = mmap.mmap(-1, 4096, flags), mmap.mmap(-1, 4096, flags)
mark.madvise(18)  # MADV_WIPEONFORK
mark[:2] = other[:2] = b'ab'
print(flush=True)
input()
print(mark[:2], other[:2])
";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut String::new()).unwrap();

        let pid = i32::try_from(child.id()).unwrap();
        ForkMarks::find(pid, soon()).unwrap().unwrap().clear();

        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut said = String::new();
        output.read_line(&mut said).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(said, "b'\\x00\\x00' b'ab'\n");
        assert!(ForkMarks::find(pid, soon()).unwrap().is_none());
    }
}
