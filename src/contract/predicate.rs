//! A condition over contract properties, as SQL: `Op = 'D'`, `deletedDateTime IS NOT NULL`.
//!
//! Only what every engine understands alike is allowed: columns, literals, comparisons, AND/OR/NOT, IS NULL, IN, BETWEEN and LIKE.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

use super::Contract;
use super::columns::data_type;

#[derive(Debug, thiserror::Error)]
pub enum PredicateError {
    #[error("`{text}` is no condition over the contract's properties: {source}")]
    Parse { text: String, source: Box<DataFusionError> },
    #[error("`{text}` uses `{part}`; only columns, literals, comparisons, AND, OR, NOT, IS NULL, IN, BETWEEN and LIKE are allowed")]
    NotPortable { text: String, part: String },
    #[error("`{text}` is {found}, not true or false")]
    NotBoolean { text: String, found: String },
}

/// A compiled condition.
#[derive(Debug, Clone)]
pub struct Predicate {
    expression: Arc<dyn PhysicalExpr>,
    /// Names of the columns that it reads, in the order of its own schema.
    columns: Vec<String>,
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
        let expression = context.create_physical_expr(expression, &schema).map_err(parse)?;
        let found = expression.data_type(schema.as_arrow()).map_err(parse)?;
        if found != arrow::datatypes::DataType::Boolean {
            return Err(PredicateError::NotBoolean { text: text.to_owned(), found: found.to_string() });
        }
        Ok(Self { expression, columns })
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
                | Expr::BinaryExpr(_)
                | Expr::Not(_)
                | Expr::Negative(_)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotTrue(_)
                | Expr::IsNotFalse(_)
                | Expr::InList(_)
                | Expr::Between(_)
                | Expr::Like(_)
                | Expr::Cast(_)
        );
        if known {
            return Ok(TreeNodeRecursion::Continue);
        }
        found = Some(part.to_string());
        Ok(TreeNodeRecursion::Stop)
    })?;
    Ok(found)
}
