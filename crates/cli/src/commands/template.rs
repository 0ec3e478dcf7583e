use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fumehood_engine::image::{Store, TEMPLATES_BYTES, TemplateSummary, Templates};
use fumehood_engine::policy::Policy;
use fumehood_engine::{Config, Engine, Language, Network, TemplateUse};

use super::{runtime, say};
use crate::args::{Host, Prune, Template, TemplateBuild, TemplateCommand};

pub(super) const MIB: u64 = 1024 * 1024;

pub(crate) fn run(args: &Template, host: &Host) -> anyhow::Result<ExitCode> {
    match &args.command {
        TemplateCommand::Build(args) => make(args, host.config()),
        TemplateCommand::List => list(&templates(host)?),
        TemplateCommand::Prune(args) => prune(args, &templates(host)?),
    }
}

fn templates(host: &Host) -> anyhow::Result<Templates> {
    let root = match host.config().store {
        Some(root) => root,
        None => Store::default_root()?,
    };
    Ok(Store::open(root)?.templates())
}

/// Builds those that are missing; each takes a boot and a few runs.
pub(crate) fn make(args: &TemplateBuild, config: Config) -> anyhow::Result<ExitCode> {
    let config = Config {
        templates: TemplateUse::Use,
        ..config
    };
    let languages = match args.language {
        Some(language) => vec![language],
        None => Language::ALL.to_vec(),
    };
    runtime()?.block_on(async {
        let engine = Engine::start(config)?;
        for language in languages {
            build_one(&engine, language, args.memory, false).await?;
            if !args.no_network {
                build_one(&engine, language, args.memory, true).await?;
            }
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn build_one(
    engine: &Engine,
    language: Language,
    memory_mib: u32,
    network: bool,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut builder = engine.sandbox().language(language).memory_mib(memory_mib);
    if network {
        // What it allows makes no difference to a template.
        builder = builder.network(Network::new(Policy::nothing("none")));
    }
    let built = builder.build_template().await?;
    let took = start.elapsed().as_secs_f32();
    let with = if network { ", with network" } else { "" };
    let what = format!("template for {language}, {memory_mib} MiB{with}");
    match built {
        true => say(&format!("{what}: built in {took:.1} s"))?,
        false => say(&format!("{what}: up to date"))?,
    }
    Ok(())
}

fn list(templates: &Templates) -> anyhow::Result<ExitCode> {
    let found = templates.list()?;
    if found.is_empty() {
        say(&"no templates; `fumehood template build` makes them")?;
    }
    for template in found {
        say(&line(&template))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(template: &TemplateSummary) -> String {
    let mib = template.bytes / MIB;
    let used = ago(template.last_used);
    match &template.manifest {
        Ok(manifest) => {
            let input = |name: &str| manifest.inputs.get(name).map_or("?", String::as_str);
            let network = match input("network") {
                "true" => " with network",
                _ => "",
            };
            let state = if template.is_intact { "" } else { " DAMAGED" };
            format!(
                "{} {} {} MiB of memory{network}, {mib} MiB on disk, used {used}{state}",
                &manifest.key[..12.min(manifest.key.len())],
                input("language"),
                input("memory_mib"),
            )
        }
        Err(error) => format!("BAD {mib} MiB on disk: {error}"),
    }
}

pub(super) fn ago(time: SystemTime) -> String {
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let minutes = since(SystemTime::now())
        .saturating_sub(since(time))
        .as_secs()
        / 60;
    match minutes {
        0 => "just now".to_string(),
        1..60 => format!("{minutes} min ago"),
        60..2880 => format!("{} h ago", minutes / 60),
        _ => format!("{} days ago", minutes / 1440),
    }
}

fn prune(args: &Prune, templates: &Templates) -> anyhow::Result<ExitCode> {
    let report = templates.prune(args.most(TEMPLATES_BYTES), |_| true)?;
    say(&format!(
        "removed {} templates, {} MiB",
        report.removed,
        report.freed_bytes / MIB
    ))?;
    Ok(ExitCode::SUCCESS)
}
