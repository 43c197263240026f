//! redb: a write transaction for each batch, immediate durability.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use margay_bench::log::{Appender, Contender, Row};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

const TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const FILE: &str = "redb";

#[derive(Debug)]
pub struct Redb;

struct Open {
    database: Database,
    next: AtomicU64,
}

impl Contender for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn open(&self, dir: &Path, _: &Row, _: u64) -> io::Result<Box<dyn Appender>> {
        let database = Database::create(dir.join(FILE)).map_err(io::Error::other)?;
        Ok(Box::new(Open { database, next: AtomicU64::new(1) }))
    }

    /// Opens it and reads every entry: only that checks them.
    fn recover(&self, dir: &Path) -> io::Result<Option<u64>> {
        let database = Database::open(dir.join(FILE)).map_err(io::Error::other)?;
        let transaction = database.begin_read().map_err(io::Error::other)?;
        let table = transaction.open_table(TABLE).map_err(io::Error::other)?;
        let mut bytes = 0;
        for entry in table.iter().map_err(io::Error::other)? {
            bytes += entry.map_err(io::Error::other)?.1.value().len();
        }
        assert!(bytes > 0);
        Ok(Some(table.len().map_err(io::Error::other)?))
    }
}

impl Appender for Open {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        let transaction = self.database.begin_write().map_err(io::Error::other)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(io::Error::other)?;
            for entry in entries {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                table.insert(index, &entry[..]).map_err(io::Error::other)?;
            }
        }
        transaction.commit().map_err(io::Error::other)
    }
}
