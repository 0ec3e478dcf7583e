//! `fumehood completions` and `fumehood man`: text that is generated from the definition of the command line.

use std::io::Write;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::CommandLine;

pub(crate) fn print_completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "fumehood", &mut script);
    print(&script)
}

/// Prints the manual as one page with the options of all commands.
pub(crate) fn print_man_page() -> anyhow::Result<ExitCode> {
    let command = CommandLine::command().disable_help_subcommand(true);

    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page)?;
    render_subcommands(&command, "fumehood", &mut page)?;
    print(&page)
}

/// Renders a section for each subcommand of `command`, recursively. `path`: the words that lead to `command`.
fn render_subcommands(command: &Command, path: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for subcommand in command.get_subcommands() {
        let path = format!("{path} {}", subcommand.get_name());
        let man = Man::new(subcommand.clone().disable_help_flag(true));

        writeln!(page, ".SH \"{}\"", path.to_uppercase())?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
        render_subcommands(subcommand, &path, page)?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}
