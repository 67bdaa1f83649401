//! Statements that make tables known to a catalog, by their place: columns, partitions and most comments come from the table itself.

use std::collections::BTreeMap;

use super::sql::{literal, name};

/// A table as a catalog is to have it.
#[derive(Debug)]
pub struct Registered<'t> {
    /// Catalog, schema and table; without a catalog, or without both, those of the session.
    pub path: Vec<&'t str>,
    pub place: &'t str,
    /// What the table does not say yet, or says otherwise.
    pub description: Option<&'t str>,
    pub comments: BTreeMap<&'t str, &'t str>,
}

impl Registered<'_> {
    pub fn statements(&self) -> Vec<String> {
        let table = self.path.iter().map(|part| name(part)).collect::<Vec<_>>().join(".");
        let mut statements = vec![format!("CREATE TABLE IF NOT EXISTS {table} USING DELTA LOCATION {}", literal(self.place))];
        statements.extend(self.description.map(|description| format!("COMMENT ON TABLE {table} IS {}", literal(description))));
        let columns = self.comments.iter();
        statements.extend(
            columns.map(|(column, comment)| format!("ALTER TABLE {table} ALTER COLUMN {} COMMENT {}", name(column), literal(comment))),
        );
        statements
    }
}
