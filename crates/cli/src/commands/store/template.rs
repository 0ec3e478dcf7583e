//! `fumehood template`: builds, lists and prunes warm templates.

use std::process::ExitCode;
use std::time::Instant;

use fumehood_engine::image::{HotImageSummary, Store, TEMPLATES_BYTES, TemplateSummary};
use fumehood_engine::policy::Policy;
use fumehood_engine::{Config, Engine, Language, Network, TemplateUse};

use super::super::format::{MIB, format_age, short_hash};
use super::super::runtime::start_runtime;
use super::{missing_images, open_store};
use crate::args::{HostArgs, PruneArgs, TemplateArgs, TemplateBuildArgs, TemplateCommand};
use crate::io::print_line;

pub(crate) fn run(args: &TemplateArgs, host: &HostArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        TemplateCommand::Build(args) => build_templates(args, host.config()),
        TemplateCommand::List => list(&open_store(host)?),
        TemplateCommand::Prune(args) => prune(args, &open_store(host)?),
        TemplateCommand::BuildMissing(args) => missing_images::build(args, host),
    }
}

/// Builds missing templates. Each takes one boot and a few runs.
pub(super) fn build_templates(
    args: &TemplateBuildArgs,
    config: Config,
) -> anyhow::Result<ExitCode> {
    let config = Config {
        templates: TemplateUse::Use,
        ..config
    };
    // VMs with and without a network device need different templates.
    let languages = match args.language {
        Some(language) => vec![language],
        None => Language::ALL.to_vec(),
    };

    start_runtime()?.block_on(async {
        let engine = Engine::start(config)?;
        for language in languages {
            build_template(&engine, language, args.memory, false).await?;
            if !args.no_network {
                build_template(&engine, language, args.memory, true).await?;
            }
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn build_template(
    engine: &Engine,
    language: Language,
    memory_mib: u32,
    has_network: bool,
) -> anyhow::Result<()> {
    let mut builder = engine.sandbox().language(language).memory_mib(memory_mib);
    if has_network {
        // The template depends on the network card, not on the policy.
        builder = builder.network(Network::new(Policy::nothing("none")));
    }

    let start = Instant::now();
    let is_new = builder.build_template().await?;
    let seconds = start.elapsed().as_secs_f32();

    let network = if has_network { ", with network" } else { "" };
    let state = if is_new {
        format!("built in {seconds:.1} s")
    } else {
        "up to date".to_string()
    };
    print_line(&format!(
        "template for {language}, {memory_mib} MiB{network}: {state}"
    ))?;
    Ok(())
}

fn list(store: &Store) -> anyhow::Result<ExitCode> {
    let listed = store.templates().list()?;
    if listed.is_empty() {
        print_line(&"no templates; build them with `fumehood template build`")?;
    }

    for template in listed {
        print_line(&template_line(&template))?;
    }
    for image in store.hot_images().list()? {
        print_line(&hot_image_line(&image))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn template_line(template: &TemplateSummary) -> String {
    let (mib, age) = (template.bytes / MIB, format_age(template.last_used));

    match &template.manifest {
        Ok(manifest) => {
            let input = |name: &str| manifest.inputs.get(name).map_or("?", String::as_str);
            let (language, memory_mib) = (input("language"), input("memory_mib"));
            let network = if input("network") == "true" {
                " with network"
            } else {
                ""
            };
            let damaged = if template.is_intact { "" } else { " DAMAGED" };
            let key = short_hash(&manifest.key);
            format!(
                "{key} {language} {memory_mib} MiB of memory{network}, {mib} MiB on disk, used {age}{damaged}"
            )
        }
        Err(error) => format!("BAD {mib} MiB on disk: {error}"),
    }
}

fn hot_image_line(image: &HotImageSummary) -> String {
    let (key, label) = (short_hash(&image.key), &image.label);
    let (mib, age) = (image.bytes / MIB, format_age(image.created));
    let outdated = if image.is_usable { "" } else { " OUTDATED" };
    format!("{key} hot image of {label}, {mib} MiB on disk, created {age}{outdated}")
}

fn prune(args: &PruneArgs, store: &Store) -> anyhow::Result<ExitCode> {
    let templates = store.templates();
    let report = templates.prune_stale(args.max_bytes(TEMPLATES_BYTES), None)?;
    let (removed, mib) = (report.removed, report.freed_bytes / MIB);
    print_line(&format!("removed {removed} templates, {mib} MiB"))?;

    let images = store.hot_images();
    let report = if args.all {
        images.remove_all()?
    } else {
        images.prune()?
    };
    let (removed, mib) = (report.removed, report.freed_bytes / MIB);
    print_line(&format!("removed {removed} hot images, {mib} MiB"))?;
    Ok(ExitCode::SUCCESS)
}
