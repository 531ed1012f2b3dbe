//! What several processes at one database need: ended calls are found to be purged, and Postgres wakes the publisher.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DatabaseBackend;

use crate::entity::calls;
use crate::postgres::OUTBOX_CHANNEL;

/// See the module.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_fleet"
    }
}

const CALLS_ENDED: &str = "calls_ended";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let ended = Index::create()
            .name(CALLS_ENDED)
            .table(calls::Entity)
            .col(calls::Column::EndedUnixMs)
            .and_where(Expr::col(calls::Column::EndedUnixMs).is_not_null())
            .take();
        manager.create_index(ended).await?;
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            // A trigger rather than a statement of the writer: no further round trip in each group.
            let trigger = format!(
                "CREATE FUNCTION nebula_outbox_filled() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_notify('{OUTBOX_CHANNEL}', ''); RETURN NULL; END $$;
                CREATE TRIGGER outbox_filled AFTER INSERT ON outbox
                    FOR EACH STATEMENT EXECUTE FUNCTION nebula_outbox_filled();"
            );
            manager.get_connection().execute_unprepared(&trigger).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_index(Index::drop().name(CALLS_ENDED).table(calls::Entity).to_owned()).await?;
        if manager.get_database_backend() == DatabaseBackend::Postgres {
            let drop = "DROP TRIGGER outbox_filled ON outbox; DROP FUNCTION nebula_outbox_filled();";
            manager.get_connection().execute_unprepared(drop).await?;
        }
        Ok(())
    }
}
