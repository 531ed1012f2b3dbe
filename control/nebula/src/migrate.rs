//! `nebula migrate`: the schema of the database that the configuration names, or of the one in the state folder.

use crate::backbone::database_url;
use crate::state::StateArguments;
use anyhow::{Result, bail};
use clap::Subcommand;
use comfy_table::{Table, presets};
use nebula_store::migration::{self, Migration, State};

/// What can be done about the schema.
#[derive(Subcommand)]
pub enum Command {
    /// Show what the database has and what it lacks; fails if it isn't this program's schema.
    Status {
        #[command(flatten)]
        state: StateArguments,
    },
    /// Bring the database to this program's schema. Processes that run on it may go on meanwhile.
    Up {
        #[command(flatten)]
        state: StateArguments,
    },
}

/// Does one of them.
pub async fn run(command: Command) -> Result<()> {
    let (Command::Status { state } | Command::Up { state }) = &command;
    let url = database_url(&state.configuration()?, &state.folder()?);
    match command {
        Command::Status { .. } => status(&migration::status(&url).await?),
        Command::Up { .. } => {
            let applied = migration::up(&url).await?;
            for name in &applied {
                println!("applied {name}");
            }
            if applied.is_empty() {
                println!("nothing to do: the schema is this program's");
            }
            Ok(())
        }
    }
}

fn status(migrations: &[Migration]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["migration", "state"]);
    let told = |state| match state {
        State::Applied => "applied",
        State::Pending => "pending",
        State::Unknown => "unknown to this program: a newer one made it",
    };
    for migration in migrations {
        table.add_row([migration.name.as_str(), told(migration.state)]);
    }
    println!("{table}");
    let first = |state| migrations.iter().find(|migration| migration.state == state);
    match (first(State::Unknown), first(State::Pending)) {
        (Some(unknown), _) => bail!("the schema is newer than this program ({}); use the newer nebula", unknown.name),
        (None, Some(pending)) => bail!("the schema lacks {}; `nebula migrate up` brings it", pending.name),
        (None, None) => Ok(()),
    }
}
