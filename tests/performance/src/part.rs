//! The parts of the measurements, which can be selected by name.

use std::path::Path;

use anyhow::{Context, bail};
use fumehood_engine::{Config, Engine, Qemu};

use crate::floor::FloorGuest;
use crate::{density, idle, network, packages, sessions, starts};

/// A part of the measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Restores,
    Images,
    Kept,
    Sessions,
    Network,
    Packages,
    Many,
    Forks,
    Boots,
    Density,
    Idle,
    Blocks,
}

/// The inputs of a part: the engine, the command under test and the number of rounds.
pub(crate) struct Bench<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) program: &'a Path,
    pub(crate) rounds: u32,
}

impl Part {
    /// All parts in the order in which they run. `parts.txt` lists their names for `cargo xtask bench`.
    const ALL: [Self; 12] = [
        Self::Restores,
        Self::Images,
        Self::Kept,
        Self::Sessions,
        Self::Network,
        Self::Packages,
        Self::Many,
        Self::Forks,
        Self::Boots,
        Self::Density,
        Self::Idle,
        Self::Blocks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restores => "restores",
            Self::Images => "images",
            Self::Kept => "kept",
            Self::Sessions => "sessions",
            Self::Network => "network",
            Self::Packages => "packages",
            Self::Many => "many",
            Self::Forks => "forks",
            Self::Boots => "boots",
            Self::Density => "density",
            Self::Idle => "idle",
            Self::Blocks => "blocks",
        }
    }

    /// Returns the parts with these names in the order in which they run, or all parts if there are no names.
    ///
    /// # Errors
    /// Returns an error that lists all parts if a name is unknown.
    pub(crate) fn select(names: &[String]) -> anyhow::Result<Vec<Self>> {
        let known = Self::ALL.map(Self::name);
        if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!(
                "unknown part `{unknown}`; the parts are {}",
                known.join(", ")
            );
        }

        let is_selected = |part: &Self| names.is_empty() || names.iter().any(|n| n == part.name());
        Ok(Self::ALL.into_iter().filter(is_selected).collect())
    }

    /// Runs the part and prints its results.
    pub(crate) async fn run(self, bench: &Bench<'_>) -> anyhow::Result<()> {
        let Bench {
            engine,
            program,
            rounds,
        } = *bench;

        let result = match self {
            Self::Restores => starts::restores(&floor_guest().await?, rounds).await,
            Self::Images => {
                let guest = floor_guest().await?;
                starts::images(engine, program, &guest, rounds).await
            }
            Self::Kept => sessions::later_execs(engine).await,
            Self::Sessions => sessions::measure(engine, rounds).await,
            Self::Network => network::measure(engine, rounds).await,
            Self::Packages => packages::measure(engine, rounds).await,
            Self::Many => starts::concurrent(engine, &floor_guest().await?, rounds).await,
            Self::Forks => starts::forks(engine, &floor_guest().await?, rounds).await,
            Self::Boots => starts::boots(engine, program, rounds).await,
            Self::Density => density::measure(engine).await,
            Self::Idle => idle::measure(rounds as usize).await,
            Self::Blocks => density::translated_blocks(engine).await,
        };
        result.with_context(|| format!("the part `{}` failed", self.name()))
    }
}

async fn floor_guest() -> anyhow::Result<FloorGuest> {
    FloorGuest::save(&Qemu::find(&Config::default())?.program).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn select(names: &[&str]) -> anyhow::Result<Vec<Part>> {
        Part::select(
            &names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn selects_parts_by_name_in_their_order() {
        assert_eq!(select(&[]).unwrap(), Part::ALL);
        assert_eq!(
            select(&["packages", "network"]).unwrap(),
            [Part::Network, Part::Packages]
        );
    }

    #[test]
    fn an_unknown_part_lists_all_parts() {
        let error = select(&["network", "speed"]).unwrap_err().to_string();
        assert!(error.contains("`speed`"), "{error}");
        for part in Part::ALL {
            assert!(error.contains(part.name()), "{error}");
        }
    }

    #[test]
    fn the_list_for_the_argument_parser_is_complete() {
        let listed: Vec<_> = include_str!("../parts.txt").lines().collect();
        assert_eq!(listed, Part::ALL.map(Part::name));
    }
}
