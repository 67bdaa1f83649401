//! Contract types → Arrow types, spelled as Delta readers expect them (`element`, `key_value`).

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::{Object, Shape, Type};

pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub fn data_type(ty: &Type) -> DataType {
    match ty {
        Type::Boolean => DataType::Boolean,
        Type::Long | Type::Duration => DataType::Int64,
        Type::Double => DataType::Float64,
        Type::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        Type::Timestamp { .. } => timestamp(),
        Type::Date => DataType::Date32,
        Type::Text | Type::Reference(_) | Type::Json { .. } => DataType::Utf8,
        Type::Struct(object) => DataType::Struct(fields(object)),
        Type::List(item) => DataType::List(element(item)),
        Type::Map(value) => DataType::Map(key_value(value), false),
    }
}

pub fn fields(object: &Object) -> Fields {
    object.properties.iter().map(|property| Field::new(&property.name, data_type(&property.shape.ty), true)).collect()
}

pub fn element(item: &Shape) -> Arc<Field> {
    Arc::new(Field::new("element", data_type(&item.ty), true))
}

pub fn key_value(value: &Shape) -> Arc<Field> {
    let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", data_type(&value.ty), true)];
    Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false))
}

/// The type as a person writes it in SQL.
pub fn sql_name(ty: &Type) -> String {
    match ty {
        Type::Boolean => "BOOLEAN".to_owned(),
        Type::Long | Type::Duration => "LONG".to_owned(),
        Type::Double => "DOUBLE".to_owned(),
        Type::Decimal { precision, scale } => format!("DECIMAL({precision},{scale})"),
        Type::Timestamp { .. } => "TIMESTAMP".to_owned(),
        Type::Date => "DATE".to_owned(),
        Type::Text | Type::Reference(_) | Type::Json { .. } => "STRING".to_owned(),
        Type::Struct(object) => {
            let fields: Vec<String> =
                object.properties.iter().map(|property| format!("{}: {}", property.name, sql_name(&property.shape.ty))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        Type::List(item) => format!("ARRAY<{}>", sql_name(&item.ty)),
        Type::Map(value) => format!("MAP<STRING, {}>", sql_name(&value.ty)),
    }
}
