//! The report on the second serial port: lines of JSON.

use std::fs::{File, OpenOptions};
use std::io::Write;

use anyhow::Context;
use serde_json::json;

use crate::check::Outcome;
use crate::plan::Check;

const PORT: &str = "/dev/ttyS1";

pub(crate) struct Report(File);

impl Report {
    pub(crate) fn open() -> anyhow::Result<Self> {
        let port = OpenOptions::new().write(true).open(PORT).context(PORT)?;

        Ok(Self(port))
    }

    pub(crate) fn started(&mut self, check: &Check) -> anyhow::Result<()> {
        self.line(&json!({"started": check.name}))
    }

    pub(crate) fn ended(&mut self, check: &Check, outcome: &Outcome) -> anyhow::Result<()> {
        self.line(&json!({
            "ended": check.name,
            "passed": outcome.passed,
            "seconds": outcome.seconds,
            "output": outcome.output,
        }))
    }

    /// Says that all checks have run, which their number alone would not show.
    pub(crate) fn finished(&mut self) -> anyhow::Result<()> {
        self.line(&json!({"finished": true}))
    }

    fn line(&mut self, value: &serde_json::Value) -> anyhow::Result<()> {
        // A serial port that is not configured adds a carriage return, which JSON permits.
        writeln!(self.0, "{value}").context(PORT)
    }
}
