//! Environment variables for a program.

use anyhow::Context;
use clap::Args;

/// Variables of the program's environment.
#[derive(Debug, Args)]
pub(crate) struct EnvironmentArgs {
    /// Set an environment variable; `KEY` without a value passes on the variable of this shell. May be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
}

impl EnvironmentArgs {
    /// Returns names and values.
    ///
    /// # Errors
    /// A variable without a value is not set in this process, or is not valid UTF-8.
    pub(crate) fn variables(&self) -> anyhow::Result<Vec<(&str, String)>> {
        self.env.iter().map(|arg| parse(arg)).collect()
    }
}

/// Parses `KEY=VALUE`, or `KEY` for the value in this process.
fn parse(arg: &str) -> anyhow::Result<(&str, String)> {
    if let Some((name, value)) = arg.split_once('=') {
        return Ok((name, value.to_owned()));
    }

    let value = std::env::var(arg)
        .with_context(|| format!("-e {arg}: the variable is not set here; use -e {arg}=VALUE"))?;
    Ok((arg, value))
}
