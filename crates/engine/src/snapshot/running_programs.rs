use fumehood_protocol::{Quiesced, RunningProgram};
use serde::{Deserialize, Serialize};

/// The programs that ran in a sandbox when its state was saved, and continue in each copy: detached programs and what
/// contexts left in the background, without the interpreters of contexts.
///
/// Copies of such a program may draw the same random numbers, unless it asks the kernel for each: fumehood cannot reseed
/// the generators of other programs, such as those of OpenSSL. Start them again in each copy if they create keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningPrograms {
    /// The programs, at most 32. The names come from the guest: at most 15 printable ASCII characters, which may lie.
    pub listed: Vec<RunningProgram>,
    /// How many there are, with those that are not listed.
    pub count: u64,
}

impl From<Quiesced> for RunningPrograms {
    /// Bounds the list of the guest.
    fn from(quiesced: Quiesced) -> Self {
        let programs = quiesced.programs.iter().take(RunningProgram::MAX_LISTED);
        let listed: Vec<_> = programs
            .map(|program| RunningProgram::new(program.pid, program.name.as_bytes()))
            .collect();

        Self {
            count: quiesced.program_count.max(listed.len() as u64),
            listed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_of_a_guest_are_bounded() {
        let program = RunningProgram {
            pid: 7,
            name: "\u{1b}[2J".repeat(1000),
        };
        let programs = RunningPrograms::from(Quiesced {
            op_id: None,
            programs: vec![program; 1000],
            program_count: 1,
        });

        assert_eq!((programs.listed.len(), programs.count), (32, 32));
        assert_eq!(programs.listed[0].name, "?[2J?[2J?[2J?[2");
    }
}
