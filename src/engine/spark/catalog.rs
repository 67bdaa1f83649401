//! Statements that make tables known to a catalog, by their place: columns, partitions and most comments come from the table itself.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

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
    /// By which statements ask for it.
    pub fn name(&self) -> String {
        self.path.iter().map(|part| name(part)).collect::<Vec<_>>().join(".")
    }

    pub fn create(&self) -> String {
        format!("CREATE TABLE IF NOT EXISTS {} USING DELTA LOCATION {}", self.name(), literal(self.place))
    }

    /// Where the table is that has the name, as its column `location`.
    pub fn detail(&self) -> String {
        format!("DESCRIBE DETAIL {}", self.name())
    }

    /// What the table does not say yet.
    pub fn says(&self) -> Vec<String> {
        let table = self.name();
        let mut statements = Vec::new();
        statements.extend(self.description.map(|description| format!("COMMENT ON TABLE {table} IS {}", literal(description))));
        let columns = self.comments.iter();
        statements.extend(
            columns.map(|(column, comment)| format!("ALTER TABLE {table} ALTER COLUMN {} COMMENT {}", name(column), literal(comment))),
        );
        statements
    }
}

/// Whether two addresses name one place: servers answer with another scheme for the same store, and with escapes.
pub fn is_same_place(a: &str, b: &str) -> bool {
    let plain = |address: &str| {
        let address = percent_decode_str(address.trim_end_matches('/')).decode_utf8_lossy().into_owned();
        match address.split_once(':') {
            Some(("file" | "dbfs", path)) => format!("/{}", path.trim_start_matches('/')),
            Some(("s3a" | "s3n", rest)) => format!("s3:{rest}"),
            _ => address,
        }
    };
    a == b || plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::is_same_place;

    #[test]
    fn places_are_compared_as_they_are_meant() {
        assert!(is_same_place("file:///a/b c/", "file:/a/b%20c"));
        assert!(is_same_place("/mnt/lake/T", "dbfs:/mnt/lake/T"));
        assert!(is_same_place("s3a://lake/silver/T", "s3://lake/silver/T/"));
        assert!(!is_same_place("s3://lake/silver/T", "s3://lake/silver/T2"));
        assert!(!is_same_place("s3://lake/silver/T", "s3://pond/silver/T"));
    }
}
