//! `nebula extension`: the extensions in the store, by hand.

use crate::backbone::{Schema, open_store};
use crate::demo::{self, CUSTOMER};
use crate::state::StateArguments;
use anyhow::{Context, Result, bail};
use clap::{Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use nebula_store::extensions::{self, Ha1, NewExtension, Srtp};

/// Who the audit log names for what is done here.
const WHO: &str = "nebula extension";

/// What can be done with extensions.
#[derive(Subcommand)]
pub enum Command {
    /// Show all of them.
    List {
        #[command(flatten)]
        state: StateArguments,
    },
    /// Add one, and print its password.
    Add {
        /// The user part, for example 2000.
        user: String,
        /// The name that called phones show [default: the user part].
        #[arg(long)]
        name: Option<String>,
        /// Its password [default: a random one].
        #[arg(long)]
        password: Option<String>,
        /// Whether its media is protected.
        #[arg(long, value_enum, default_value_t)]
        srtp: Protection,
        #[command(flatten)]
        state: StateArguments,
    },
    /// Change a setting of one; calls from then on follow it, within seconds.
    Set {
        /// The extension.
        user: String,
        /// Whether its media is protected.
        #[arg(long, value_enum)]
        srtp: Protection,
        #[command(flatten)]
        state: StateArguments,
    },
    /// Make the ten of a first start, 1000 to 1009, if there is no extension yet; prints their passwords.
    Demo {
        #[command(flatten)]
        state: StateArguments,
    },
    /// Set another password, and print it.
    Password {
        /// The extension.
        user: String,
        /// The password [default: a random one].
        #[arg(long)]
        password: Option<String>,
        #[command(flatten)]
        state: StateArguments,
    },
}

/// Whether the media of an extension is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Protection {
    /// As the configuration says for all (`media.srtp`).
    #[default]
    Default,
    /// Never.
    Off,
    /// It is offered SRTP, may decline, and gets it when it offers.
    Optional,
    /// Nothing else: calls without are refused with 488.
    Required,
}

impl Protection {
    const ALL: [(Self, Option<Srtp>, &'static str); 4] = [
        (Self::Default, None, "default"),
        (Self::Off, Some(Srtp::Off), "off"),
        (Self::Optional, Some(Srtp::Optional), "optional"),
        (Self::Required, Some(Srtp::Required), "required"),
    ];

    fn setting(self) -> Option<Srtp> {
        Self::ALL.into_iter().find(|row| row.0 == self).and_then(|row| row.1)
    }

    fn name(setting: Option<Srtp>) -> &'static str {
        Self::ALL.into_iter().find(|row| row.1 == setting).map_or("default", |row| row.2)
    }
}

/// Does one of them.
pub async fn run(command: Command) -> Result<()> {
    let (Command::List { state }
    | Command::Add { state, .. }
    | Command::Set { state, .. }
    | Command::Demo { state }
    | Command::Password { state, .. }) = &command;
    let config = state.configuration()?;
    // The embedded database may not be there yet; one that is shared is migrated by `nebula migrate`.
    let schema = if config.database.url.is_some() { Schema::Check } else { Schema::Migrate };
    let store = open_store(&config, &state.folder()?, schema).await?;
    match command {
        Command::List { .. } => {
            let mut table = Table::new();
            table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["extension", "name", "enabled", "srtp"]);
            for extension in extensions::list(&store).await? {
                let enabled = if extension.enabled { "yes" } else { "no" };
                let srtp = Protection::name(extension.srtp);
                table.add_row([&extension.user, &extension.display_name, enabled, srtp]);
            }
            println!("{table}");
        }
        Command::Add { user, name, password, srtp, .. } => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            if user.is_empty() || user.len() > 64 || !user.chars().all(allowed) {
                bail!("extension {user:?}: 1 to 64 letters, digits and -_.+ are allowed");
            }
            let password = chosen(password)?;
            let ha1 = Ha1::new(&user, &config.sip.realm, &password);
            let (display_name, srtp) = (name.unwrap_or_else(|| user.clone()), srtp.setting());
            let new = NewExtension { display_name, ha1, user: user.clone(), srtp };
            match extensions::add_customer(&store, demo::customer(), WHO).await {
                Ok(()) | Err(nebula_store::Error::Duplicate) => {}
                Err(e) => return Err(e).context("cannot add the customer of all extensions"),
            }
            let added = extensions::insert(&store, CUSTOMER, vec![new], WHO).await;
            added.with_context(|| format!("cannot add extension {user}"))?;
            println!("extension {user} has password {password}");
        }
        Command::Set { user, srtp, .. } => {
            if !extensions::set_srtp(&store, &user, srtp.setting(), WHO).await? {
                bail!("there is no extension {user}; `nebula extension list` shows all");
            }
            println!("extension {user} has srtp {}", Protection::name(srtp.setting()));
        }
        Command::Demo { .. } => {
            let made = demo::seed(&store, &config.sip.realm, WHO).await?;
            if made.is_empty() {
                bail!("there are extensions already; `nebula extension add` adds one");
            }
            for demo::Extension { user, password } in made {
                println!("extension {user} has password {password}");
            }
        }
        Command::Password { user, password, .. } => {
            let password = chosen(password)?;
            let ha1 = Ha1::new(&user, &config.sip.realm, &password);
            if !extensions::set_password(&store, &user, ha1, WHO).await? {
                bail!("there is no extension {user}; `nebula extension list` shows all");
            }
            println!("extension {user} has password {password}");
        }
    }
    store.close().await;
    Ok(())
}

fn chosen(password: Option<String>) -> Result<String> {
    match password {
        Some(password) if password.is_empty() => bail!("an empty password is none"),
        Some(password) => Ok(password),
        None => Ok(demo::random_password()?),
    }
}
