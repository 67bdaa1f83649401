//! A condition over contract properties (`delete_when`) as the server's SQL. Only the forms that a job may use are there; of a form
//! that is not, no record is proven to be one thing or the other.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, Operator};

use super::sql::{double, long, name, text};

/// What no record satisfies and none fails.
const UNKNOWN: &str = "CAST(NULL AS BOOLEAN)";

pub fn sql(condition: &Expr) -> String {
    rendered(condition).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// Whether the server can decide it.
pub fn is_decidable(condition: &Expr) -> bool {
    rendered(condition).is_some()
}

fn rendered(expression: &Expr) -> Option<String> {
    let list = |items: &[Expr]| items.iter().map(rendered).collect::<Option<Vec<_>>>().map(|items| items.join(", "));
    let negated = |negated: bool| if negated { "NOT " } else { "" };
    Some(match expression {
        Expr::Column(column) => name(&column.name),
        Expr::Literal(value, _) => literal(value)?,
        Expr::Negative(inner) => format!("-{}", rendered(inner)?),
        Expr::Not(inner) => format!("(NOT {})", rendered(inner)?),
        Expr::IsNull(inner) => format!("({} IS NULL)", rendered(inner)?),
        Expr::IsNotNull(inner) => format!("({} IS NOT NULL)", rendered(inner)?),
        Expr::IsTrue(inner) => format!("coalesce({}, FALSE)", rendered(inner)?),
        Expr::IsNotTrue(inner) => format!("(NOT coalesce({}, FALSE))", rendered(inner)?),
        Expr::IsFalse(inner) => format!("(NOT coalesce({}, TRUE))", rendered(inner)?),
        Expr::IsNotFalse(inner) => format!("coalesce({}, TRUE)", rendered(inner)?),
        Expr::InList(of) => format!("({} {}IN ({}))", rendered(&of.expr)?, negated(of.negated), list(&of.list)?),
        Expr::Between(of) => {
            format!("({} {}BETWEEN {} AND {})", rendered(&of.expr)?, negated(of.negated), rendered(&of.low)?, rendered(&of.high)?)
        }
        Expr::BinaryExpr(of) => {
            let (left, right) = (rendered(&of.left)?, rendered(&of.right)?);
            match operator(of.op) {
                Some(operator) => format!("({left} {operator} {right})"),
                None if of.op == Operator::IsDistinctFrom => format!("(NOT ({left} <=> {right}))"),
                None if of.op == Operator::IsNotDistinctFrom => format!("({left} <=> {right})"),
                None => return None,
            }
        }
        // How a backslash in a pattern is read is not the same everywhere.
        Expr::Like(of) if !of.case_insensitive && of.escape_char.is_none() => {
            let pattern = rendered(&of.pattern).filter(|pattern| pattern.starts_with('\''))?;
            format!("({} {}LIKE {pattern})", rendered(&of.expr)?, negated(of.negated))
        }
        _ => return None,
    })
}

fn operator(operator: Operator) -> Option<&'static str> {
    Some(match operator {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        Operator::And => "AND",
        Operator::Or => "OR",
        _ => return None,
    })
}

fn literal(value: &ScalarValue) -> Option<String> {
    Some(match value {
        ScalarValue::Utf8(Some(value)) | ScalarValue::LargeUtf8(Some(value)) | ScalarValue::Utf8View(Some(value)) => text(value),
        ScalarValue::Boolean(Some(value)) => value.to_string().to_uppercase(),
        ScalarValue::Int64(Some(value)) => long(*value),
        ScalarValue::Float64(Some(value)) => double(*value),
        ScalarValue::Null => "NULL".to_owned(),
        _ => return None,
    })
}
