//! Extensions have a setting of their own for protected media: `off`, `optional`, `required`, or none.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::string_null;

use crate::entity::extensions;

/// See the module.
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_extension_srtp"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let srtp = string_null(extensions::Column::Srtp);
        manager.alter_table(Table::alter().table(extensions::Entity).add_column(srtp).take()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let srtp = extensions::Column::Srtp;
        manager.alter_table(Table::alter().table(extensions::Entity).drop_column(srtp).take()).await
    }
}
