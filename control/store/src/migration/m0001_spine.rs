//! The first schema: all that the spine of the system keeps.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, boolean, integer, string, string_null, text, text_null,
};

use crate::entity::{audit_log, calls, cdrs, customers, extensions, locations, outbox};

/// See the module.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_spine"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables().iter().rev().filter_map(|table| table.get_table_name().cloned()) {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

fn tables() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table(customers::Entity)
            .col(string(customers::Column::Id).primary_key().take())
            .col(string(customers::Column::Name))
            .col(big_integer(customers::Column::CreatedUnixMs))
            .take(),
        Table::create()
            .table(extensions::Entity)
            .col(string(extensions::Column::User).primary_key().take())
            .col(string(extensions::Column::CustomerId))
            .col(string(extensions::Column::DisplayName))
            .col(string(extensions::Column::Ha1Md5))
            .col(string(extensions::Column::Ha1Sha256))
            .col(boolean(extensions::Column::Enabled))
            .col(big_integer(extensions::Column::CreatedUnixMs))
            .foreign_key(
                ForeignKey::create()
                    .from(extensions::Entity, extensions::Column::CustomerId)
                    .to(customers::Entity, customers::Column::Id),
            )
            .take(),
        Table::create()
            .table(locations::Entity)
            .col(string(locations::Column::User))
            .col(string(locations::Column::Contact))
            .col(string(locations::Column::CallId))
            .col(big_integer(locations::Column::Cseq))
            .col(big_integer(locations::Column::ExpiresUnixMs))
            .col(string(locations::Column::Transport))
            .col(string(locations::Column::Address))
            .col(text(locations::Column::Path))
            .col(string(locations::Column::UserAgent))
            .col(integer(locations::Column::QThousandths))
            .col(string(locations::Column::Proxy))
            .col(big_integer(locations::Column::UpdatedUnixMs))
            .primary_key(Index::create().col(locations::Column::User).col(locations::Column::Contact))
            .take(),
        Table::create()
            .table(calls::Entity)
            .col(string(calls::Column::Id).primary_key().take())
            .col(string(calls::Column::CustomerId))
            .col(string(calls::Column::State))
            .col(string(calls::Column::FromUser))
            .col(string_null(calls::Column::FromDisplay))
            .col(string(calls::Column::ToUser))
            .col(big_integer(calls::Column::StartedUnixMs))
            .col(big_integer_null(calls::Column::AnsweredUnixMs))
            .col(big_integer_null(calls::Column::EndedUnixMs))
            .col(string(calls::Column::Switchboard))
            .col(text_null(calls::Column::Snapshot))
            .take(),
        Table::create()
            .table(cdrs::Entity)
            .col(string(cdrs::Column::CallId).primary_key().take())
            .col(string(cdrs::Column::CustomerId))
            .col(string(cdrs::Column::FromUser))
            .col(string_null(cdrs::Column::FromDisplay))
            .col(string(cdrs::Column::ToUser))
            .col(big_integer(cdrs::Column::StartedUnixMs))
            .col(big_integer_null(cdrs::Column::AnsweredUnixMs))
            .col(big_integer(cdrs::Column::EndedUnixMs))
            .col(big_integer(cdrs::Column::DurationMs))
            .col(big_integer(cdrs::Column::BilledMs))
            .col(string(cdrs::Column::EndedBy))
            .col(integer(cdrs::Column::SipCode))
            .col(string(cdrs::Column::Cause))
            .col(string(cdrs::Column::CauseText))
            .col(text(cdrs::Column::Legs))
            .take(),
        Table::create()
            .table(outbox::Entity)
            .col(big_integer(outbox::Column::Sequence).auto_increment().primary_key().take())
            .col(string(outbox::Column::Kind))
            .col(string(outbox::Column::Subject))
            .col(big_integer(outbox::Column::AtUnixMs))
            .col(text(outbox::Column::Data))
            .col(big_integer_null(outbox::Column::PublishedUnixMs))
            .take(),
        Table::create()
            .table(audit_log::Entity)
            .col(big_integer(audit_log::Column::Id).auto_increment().primary_key().take())
            .col(string(audit_log::Column::Who))
            .col(string(audit_log::Column::What))
            .col(string(audit_log::Column::Subject))
            .col(big_integer(audit_log::Column::AtUnixMs))
            .col(text(audit_log::Column::Detail))
            .take(),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        Index::create().name("locations_expires").table(locations::Entity).col(locations::Column::ExpiresUnixMs).take(),
        // Partial: few calls live, few events wait, and only those are looked for.
        Index::create()
            .name("calls_unfinished")
            .table(calls::Entity)
            .col(calls::Column::Switchboard)
            .and_where(Expr::col(calls::Column::EndedUnixMs).is_null())
            .take(),
        Index::create()
            .name("outbox_unpublished")
            .table(outbox::Entity)
            .col(outbox::Column::Sequence)
            .and_where(Expr::col(outbox::Column::PublishedUnixMs).is_null())
            .take(),
        Index::create().name("cdrs_ended").table(cdrs::Entity).col(cdrs::Column::EndedUnixMs).take(),
    ]
}
