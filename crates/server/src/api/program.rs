use fumehood_engine::RunningPrograms;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A program that ran when the state of a sandbox was saved, and continues in each copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramResponse {
    /// The process id in the guest.
    pub pid: i32,
    /// The name of the process, at most 15 printable ASCII characters. Processes choose their names.
    pub name: String,
}

impl ProgramResponse {
    /// Returns the listed programs, and the number of all.
    pub(crate) fn list(programs: &RunningPrograms) -> (Vec<Self>, u64) {
        let listed = programs.listed.iter().map(|program| Self {
            pid: program.pid,
            name: program.name.clone(),
        });

        (listed.collect(), programs.count)
    }
}
