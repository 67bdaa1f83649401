//! A condition over contract properties, as SQL: `Op = 'D'`, `deletedDateTime IS NOT NULL`.
//!
//! Only what every engine understands alike is allowed: columns, literals, comparisons, AND/OR/NOT, IS NULL, IN, BETWEEN and LIKE.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::prelude::SessionContext;

use super::Contract;
use super::columns::data_type;

#[derive(Debug, thiserror::Error)]
pub enum PredicateError {
    #[error("`{text}` is no condition over the contract's properties: {source}")]
    Parse { text: String, source: Box<DataFusionError> },
    #[error("`{text}` uses `{part}`; only columns, literals, comparisons, AND, OR, NOT, IS NULL, IN, BETWEEN and LIKE are allowed")]
    NotPortable { text: String, part: String },
    #[error("`{text}` compares the text `{column}` with something that is no text; write it in quotes")]
    TextAsOther { text: String, column: String },
    #[error("`{text}` is {found}, not true or false")]
    NotBoolean { text: String, found: String },
}

const COMPARISONS: [Operator; 8] = [
    Operator::Eq,
    Operator::NotEq,
    Operator::Lt,
    Operator::LtEq,
    Operator::Gt,
    Operator::GtEq,
    Operator::IsDistinctFrom,
    Operator::IsNotDistinctFrom,
];

/// A compiled condition.
#[derive(Debug, Clone)]
pub struct Predicate {
    expression: Arc<dyn PhysicalExpr>,
    /// As it is to be said in another dialect.
    logical: Expr,
    /// Names of the columns that it reads, in the order of its own schema.
    columns: Vec<String>,
    /// Those of them that are texts.
    texts: Vec<String>,
}

impl Predicate {
    pub fn compile(text: &str, contract: &Contract) -> Result<Self, PredicateError> {
        let parse = |source| PredicateError::Parse { text: text.to_owned(), source: Box::new(source) };
        let properties = &contract.latest().root.properties;
        let all = Schema::new(properties.iter().map(|p| Field::new(&p.name, data_type(&p.shape.ty), true)).collect::<Vec<_>>());
        let context = SessionContext::new_with_config(plain_config());
        let of_all = DFSchema::try_from(all.clone()).map_err(parse)?;
        let expression = context.parse_sql_expr(text, &of_all).map_err(parse)?;
        if let Some(part) = first_foreign(&expression).map_err(parse)? {
            return Err(PredicateError::NotPortable { text: text.to_owned(), part });
        }
        let mut columns: Vec<String> = expression.column_refs().into_iter().map(|column| column.name.clone()).collect();
        columns.sort();
        let read: Vec<Field> = columns.iter().filter_map(|name| all.field_with_name(name).ok().cloned()).collect();
        let schema = DFSchema::try_from(Schema::new(read)).map_err(parse)?;
        let logical = expression.clone();
        let expression = context.create_physical_expr(expression, &schema).map_err(parse)?;
        let found = expression.data_type(schema.as_arrow()).map_err(parse)?;
        if found != arrow::datatypes::DataType::Boolean {
            return Err(PredicateError::NotBoolean { text: text.to_owned(), found: found.to_string() });
        }
        let is_text = |name: &&String| schema.as_arrow().field_with_name(name).is_ok_and(|field| field.data_type().is_string());
        let texts = columns.iter().filter(is_text).cloned().collect();
        let predicate = Self { expression, logical, columns, texts };
        predicate.check_conversions(text)?;
        // A literal that does not fit the column it is compared with shows on any row.
        let nulls: Vec<ArrayRef> = schema.as_arrow().fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let row = RecordBatch::try_new_with_options(schema.inner().clone(), nulls, &one).map_err(|error| parse(error.into()))?;
        predicate.expression.evaluate(&row).map_err(parse)?;
        Ok(predicate)
    }

    /// A text column that is read as a number or an instant would fail on whatever record says otherwise.
    fn check_conversions(&self, text: &str) -> Result<(), PredicateError> {
        let mut converted = None;
        let looked = self.expression.apply(|part| {
            let inner = part.downcast_ref::<CastExpr>().map(CastExpr::expr);
            if let Some(column) = inner.and_then(|inner| inner.downcast_ref::<Column>())
                && part.downcast_ref::<CastExpr>().is_some_and(|cast| !cast.cast_type().is_string())
            {
                converted = Some(column.name().to_owned());
            }
            Ok(TreeNodeRecursion::Continue)
        });
        looked.map_err(|source| PredicateError::Parse { text: text.to_owned(), source: Box::new(source) })?;
        match converted.filter(|name| self.texts.contains(name)) {
            Some(column) => Err(PredicateError::TextAsOther { text: text.to_owned(), column }),
            None => Ok(()),
        }
    }

    /// The condition, of nothing but what [`Self::compile`] allows.
    pub fn logical(&self) -> &Expr {
        &self.logical
    }

    /// Which rows it holds for; where it is neither true nor false, it does not.
    pub fn holds(&self, rows: &RecordBatch) -> Result<Vec<bool>, DataFusionError> {
        let positions: Result<Vec<usize>, _> = self.columns.iter().map(|name| rows.schema().index_of(name)).collect();
        let judged = self.expression.evaluate(&rows.project(&positions?)?)?.into_array(rows.num_rows())?;
        let judged = judged.as_boolean();
        Ok((0..judged.len()).map(|row| judged.is_valid(row) && judged.value(row)).collect())
    }
}

/// Column names as they are written: the contract's have capitals.
fn plain_config() -> datafusion::prelude::SessionConfig {
    datafusion::prelude::SessionConfig::new().set_bool("datafusion.sql_parser.enable_ident_normalization", false)
}

fn first_foreign(expression: &Expr) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    expression.apply(|part| {
        let known = matches!(
            part,
            Expr::Column(_)
                | Expr::Literal(..)
                | Expr::Not(_)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotTrue(_)
                | Expr::IsNotFalse(_)
                | Expr::InList(_)
                | Expr::Between(_)
                | Expr::Like(_)
        ) || matches!(part, Expr::BinaryExpr(binary) if COMPARISONS.contains(&binary.op) || binary.op.is_logic_operator())
            || matches!(part, Expr::Negative(inner) if matches!(**inner, Expr::Literal(..)));
        if known {
            return Ok(TreeNodeRecursion::Continue);
        }
        found = Some(part.to_string());
        Ok(TreeNodeRecursion::Stop)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(text: &str) -> Result<Predicate, String> {
        let schema = r#"{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {
            "Op": {"type": "string"}, "n": {"type": "integer"}, "at": {"type": "string", "format": "date-time"}}}"#;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("E")).unwrap();
        std::fs::write(folder.path().join("E/1.json"), schema).unwrap();
        Predicate::compile(text, &Contract::load(folder.path(), "E").unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_could_fail_on_a_record_is_refused_when_it_is_read() {
        for sound in
            ["Op = 'D'", "at IS NOT NULL", "n = 5 AND NOT Op IN ('I', 'U')", "n > -1", "at > '2024-01-01T00:00:00Z'", "n BETWEEN 1 AND 2"]
        {
            compile(sound).unwrap();
        }
        for bad in ["Op = 5", "n = 'x'", "at > 'zzz'", "n / 0 = 1", "CAST(Op AS BIGINT) = 1", "n", "nope = 1", "Op =", "upper(Op) = 'D'"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }
}
