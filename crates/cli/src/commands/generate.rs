use std::io::Write;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Args;

pub(crate) fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "fumehood", &mut script);
    print(&script)
}

/// The manual: one page that has every command's options in it.
pub(crate) fn man() -> anyhow::Result<ExitCode> {
    let mut page = Vec::new();
    let command = Args::command().disable_help_subcommand(true);
    Man::new(command.clone()).render(&mut page)?;
    sections(&command, "fumehood", &mut page)?;
    print(&page)
}

/// A section for each command below this one.
fn sections(command: &Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for below in command.get_subcommands() {
        let name = format!("{path} {}", below.get_name());
        let man = Man::new(below.clone().disable_help_flag(true));
        writeln!(page, ".SH \"{}\"", name.to_uppercase())?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
        sections(below, &name, page)?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}
