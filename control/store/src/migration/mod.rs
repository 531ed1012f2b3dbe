//! The schema's history. Migrations are only ever added; a database that knows more of them than this binary is refused.
//! `nebula migrate` calls [`status`] and [`up`]; whoever migrates Postgres holds a lock there meanwhile.

mod m0001_spine;
mod m0002_fleet;
mod m0003_extension_srtp;

use sea_orm::DatabaseConnection;
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager};

use crate::database::Database;
use crate::error::{Error, Result};

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_spine::Migration),
            Box::new(m0002_fleet::Migration),
            Box::new(m0003_extension_srtp::Migration),
        ]
    }
}

/// A migration, as `nebula migrate status` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: State,
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The database has it.
    Applied,
    /// The database lacks it.
    Pending,
    /// The database has it, and this binary does not know it: a newer one made it.
    Unknown,
}

/// All migrations, in order, of this binary and of the database. Changes nothing.
pub async fn status(url: &str) -> Result<Vec<Migration>> {
    let database = Database::parse(url, 1)?;
    let db = database.exclusive().await?;
    let migrations = compare(&db).await.map_err(|error| database.explain(error));
    let _ = db.close().await;
    migrations
}

/// Brings the database to this binary's schema; the names of the migrations that this took. Several may do so at once.
pub async fn up(url: &str) -> Result<Vec<String>> {
    apply(&Database::parse(url, 1)?).await
}

pub(crate) async fn apply(database: &Database) -> Result<Vec<String>> {
    let db = database.exclusive().await?;
    let applied = migrate(&db, &database.to_string()).await.map_err(|error| database.explain(error));
    let _ = db.close().await;
    applied
}

/// [`check`] on a connection of its own.
pub(crate) async fn check_alone(database: &Database) -> Result<()> {
    let db = database.exclusive().await?;
    let checked = check(&db, &database.to_string()).await.map_err(|error| database.explain(error));
    let _ = db.close().await;
    checked
}

/// Refuses a schema that is not this binary's.
pub(crate) async fn check(db: &DatabaseConnection, place: &str) -> Result<()> {
    let migrations = compare(db).await?;
    if refuse_newer(&migrations, place)?.is_empty() {
        return Ok(());
    }
    let found = newest(&migrations, State::Applied);
    Err(Error::OlderSchema { place: place.to_owned(), found, known: known() })
}

/// Brings the database to this binary's schema. `place` names it in the error.
pub(crate) async fn migrate(db: &DatabaseConnection, place: &str) -> Result<Vec<String>> {
    let pending = refuse_newer(&compare(db).await?, place)?;
    if !pending.is_empty() {
        Migrator::up(db, None).await?;
    }
    Ok(pending)
}

async fn compare(db: &DatabaseConnection) -> Result<Vec<Migration>> {
    let known = Migrator::migrations();
    let known = known.iter().map(|migration| migration.name());
    // A query that reads only: who looks at a foreign database changes nothing there.
    let table = Migrator::migration_table_name().to_string();
    let applied: Vec<String> = if SchemaManager::new(db).has_table(table).await? {
        Migrator::get_migration_models(db).await?.into_iter().map(|model| model.version).collect()
    } else {
        Vec::new()
    };
    let state =
        |name: &str| if applied.iter().any(|applied| applied == name) { State::Applied } else { State::Pending };
    let mut all: Vec<_> = known.map(|name| Migration { name: name.to_owned(), state: state(name) }).collect();
    let unknown: Vec<_> = applied.into_iter().filter(|name| !all.iter().any(|known| known.name == *name)).collect();
    all.extend(unknown.into_iter().map(|name| Migration { name, state: State::Unknown }));
    Ok(all)
}

/// The names of what is pending, unless a newer binary was here.
fn refuse_newer(all: &[Migration], place: &str) -> Result<Vec<String>> {
    if all.iter().any(|migration| migration.state == State::Unknown) {
        let found = newest(all, State::Unknown);
        return Err(Error::NewerSchema { place: place.to_owned(), found, known: known() });
    }
    let pending = all.iter().filter(|migration| migration.state == State::Pending);
    Ok(pending.map(|migration| migration.name.clone()).collect())
}

fn newest(all: &[Migration], state: State) -> String {
    let newest = all.iter().filter(|migration| migration.state == state).map(|migration| &migration.name).max();
    newest.cloned().unwrap_or_else(|| "none".to_owned())
}

fn known() -> String {
    Migrator::migrations().last().map(|migration| migration.name().to_owned()).unwrap_or_default()
}
