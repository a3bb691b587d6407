//! `ackring dead`: jobs that are out of attempts or were rejected.

use super::args::Global;
use super::connect::connect;
use super::exit::Done;
use super::job::{Page, print_changed, print_list};
use super::report::ItemReport;
use crate::base::job::{JobId, JobState};
use clap::{Args, Subcommand};

/// Subcommands of `ackring dead`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List a queue's dead jobs with their last errors
    #[command(after_help = "Examples:\n  ackring dead ls mail\n  ackring dead ls mail --limit 1000 --json")]
    Ls(List),
    /// Bring dead jobs back: they get more attempts, and their attempt numbers go on
    Redrive(Redrive),
}

/// Arguments of `ackring dead ls`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Which part of the list
    #[command(flatten)]
    page: Page,
}

/// Arguments of `ackring dead redrive`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").args(["all", "ids"]).required(true))]
#[command(after_help = "\
Examples:
  ackring dead redrive mail --all
  ackring dead redrive mail --all --limit 100
  ackring dead redrive mail 0000000100000002 0000000100000003")]
pub(crate) struct Redrive {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// All its dead jobs
    #[arg(long)]
    all: bool,
    /// With --all: no more than so many
    #[arg(long, value_name = "N", requires = "all", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// These jobs
    #[arg(value_name = "ID")]
    ids: Vec<JobId>,
}

/// Runs one of the subcommands.
pub(crate) fn run(global: &Global, dead: Dead) -> Done {
    match dead {
        Dead::Ls(list) => print_list(global, &list.queue, Some(JobState::Dead), &list.page),
        Dead::Redrive(redrive) if redrive.all => {
            let count = connect(global)?.redrive_all(&redrive.queue, redrive.limit.unwrap_or(0))?;
            print_changed(global, "redriven", count as usize, &[])
        }
        Dead::Redrive(redrive) => {
            let done = connect(global)?.redrive(&redrive.queue, &redrive.ids)?;
            let errors = ItemReport::failures(&done.items, &redrive.ids);
            print_changed(global, "redriven", redrive.ids.len() - errors.len(), &errors)
        }
    }
}
