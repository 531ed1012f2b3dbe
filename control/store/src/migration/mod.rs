//! The schema's history. Migrations are only ever added; a database that knows more of them than this binary is refused.

mod m0001_spine;

use sea_orm::DatabaseConnection;
use sea_orm_migration::{MigrationTrait, MigratorTrait};

use crate::error::{Error, Result};

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_spine::Migration)]
    }
}

/// Brings the database to this binary's schema. `place` names it in the error.
pub(crate) async fn migrate(db: &DatabaseConnection, place: &str) -> Result<()> {
    let known: Vec<String> = Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    let applied = Migrator::get_migration_models(db).await?;
    if let Some(newest) = applied.iter().map(|model| &model.version).filter(|version| !known.contains(version)).max() {
        return Err(Error::NewerSchema {
            place: place.to_owned(),
            found: newest.clone(),
            known: known.last().cloned().unwrap_or_default(),
        });
    }
    if applied.len() < known.len() {
        Migrator::up(db, None).await?;
    }
    Ok(())
}
