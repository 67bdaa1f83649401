//! The command line, and what it means once it is checked.

use std::error::Error;
use std::path::PathBuf;

use chrono::{Datelike, NaiveDate};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use crate::entities::{ENTITIES, Entity};
use crate::mess;

const COUNTRIES: [&str; 5] = ["de", "fr", "it", "es", "uk"];

/// Writes bronze objects in both layouts, and a manifest of what a correct run makes of them.
///
/// The same arguments give the same bytes, whatever the number of threads.
#[derive(Parser)]
#[command(name = "bronze")]
pub struct Args {
    /// Directory to write to; it must be empty or not there yet
    #[arg(long)]
    pub out: PathBuf,
    /// Where the manifest goes [default: <out>.manifest.json]
    #[arg(long)]
    pub manifest: Option<PathBuf>,
    /// Entities, or all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    entities: Vec<String>,
    /// Countries, or all
    #[arg(long, value_delimiter = ',', default_value = "all")]
    countries: Vec<String>,
    /// Records per entity and country, whatever becomes of them
    #[arg(long, default_value_t = 10_000, conflicts_with = "size")]
    records: u64,
    /// Decoded bytes of all objects together, instead of a number of records
    #[arg(long, value_parser = size)]
    pub size: Option<u64>,
    /// First day of arrival
    #[arg(long, default_value = "2024-01-01")]
    from: NaiveDate,
    /// Number of days
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of records that are refused, 0 to 0.5; above 0 there are also odd but sound objects
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    mess: f64,
    /// Codes of the defects to make, all, or none (then only the odd but sound objects)
    #[arg(long, value_delimiter = ',', default_value = "all")]
    defects: Vec<String>,
    #[arg(long, value_enum, default_value_t = Codec::Mixed)]
    codec: Codec,
    #[arg(long, value_enum, default_value_t = Delimiter::Mixed)]
    delimiter: Delimiter,
    /// Decoded bytes per object, about
    #[arg(long, default_value = "16MiB", value_parser = size)]
    object_bytes: u64,
    /// Share of objects, and of the days, that lie in the year_root layout
    #[arg(long, default_value_t = 0.4, value_parser = share)]
    year_root_share: f64,
    /// Share of records that are written twice
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    duplicates: f64,
    /// Share of records with a field that no contract has
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    unknown_fields: f64,
    /// Share of records with their keys in another order
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    shuffled_keys: f64,
    /// Records of 17 MiB, per entity and country
    #[arg(long, default_value_t = 0)]
    huge: u64,
    /// [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Codec {
    Plain,
    Gzip,
    Zstd,
    Mixed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Delimiter {
    None,
    Newline,
    Mixed,
}

/// The arguments as meant. `args` is what goes into the manifest: all that decides the bytes, and nothing else.
pub struct Settings {
    pub records: u64,
    pub first_day: i64,
    pub days: u64,
    pub seed: u64,
    pub mess: f64,
    pub defects: Vec<String>,
    pub codec: Codec,
    pub delimiter: Delimiter,
    pub object_bytes: u64,
    pub year_root_share: f64,
    pub duplicates: f64,
    pub unknown_fields: f64,
    pub shuffled_keys: f64,
    pub huge: u64,
    pub args: Value,
}

impl Args {
    pub fn entities(&self) -> Result<Vec<(u64, &'static Entity)>, Box<dyn Error>> {
        let numbered = || (0u64..).zip(ENTITIES);
        if self.entities.iter().any(|name| name == "all") {
            return Ok(numbered().collect());
        }
        let known = |name: &String| numbered().find(|(_, entity)| entity.name == name);
        distinct(&self.entities)
            .into_iter()
            .map(|name| known(name).ok_or_else(|| Box::<dyn Error>::from(format!("no entity {name}; there are {}", names()))))
            .collect()
    }

    pub fn countries(&self) -> Result<Vec<String>, Box<dyn Error>> {
        if self.countries.iter().any(|name| name == "all") {
            return Ok(COUNTRIES.map(str::to_owned).to_vec());
        }
        match self.countries.iter().find(|name| !is_country(name.as_str())) {
            Some(name) => Err(format!("a country is written in small letters and digits, not {name:?}").into()),
            None => Ok(distinct(&self.countries).into_iter().cloned().collect()),
        }
    }

    pub fn settings(&self) -> Result<Settings, Box<dyn Error>> {
        if self.mess > 0.5 {
            return Err("--mess is at most 0.5: defects keep a distance from each other".into());
        }
        if !(1970..=9000).contains(&self.from.year()) {
            return Err(format!("--from {}: the year must be from 1970 to 9000", self.from).into());
        }
        if self.object_bytes == 0 {
            return Err("--object-bytes must not be 0".into());
        }
        if let Some(code) = self.defects.iter().find(|code| !is_code(code)) {
            return Err(format!("--defects: no defect has the code {code}").into());
        }
        Ok(Settings {
            records: self.records,
            first_day: self.from.signed_duration_since(NaiveDate::default()).num_days(),
            days: self.days,
            seed: self.seed,
            mess: self.mess,
            defects: self.defects.clone(),
            codec: self.codec,
            delimiter: self.delimiter,
            object_bytes: self.object_bytes,
            year_root_share: self.year_root_share,
            duplicates: self.duplicates,
            unknown_fields: self.unknown_fields,
            shuffled_keys: self.shuffled_keys,
            huge: self.huge,
            args: self.to_json(),
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "entities": self.entities,
            "countries": self.countries,
            "records": self.size.is_none().then_some(self.records),
            "size": self.size,
            "from": self.from.to_string(),
            "days": self.days,
            "seed": self.seed,
            "mess": self.mess,
            "defects": self.defects,
            "codec": format!("{:?}", self.codec).to_lowercase(),
            "delimiter": format!("{:?}", self.delimiter).to_lowercase(),
            "object_bytes": self.object_bytes,
            "year_root_share": self.year_root_share,
            "duplicates": self.duplicates,
            "unknown_fields": self.unknown_fields,
            "shuffled_keys": self.shuffled_keys,
            "huge": self.huge,
        })
    }
}

fn is_country(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn names() -> String {
    ENTITIES.map(|entity| entity.name).join(", ")
}

fn distinct(names: &[String]) -> Vec<&String> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

fn is_code(code: &str) -> bool {
    let general = mess::GENERAL.iter().map(|defect| defect.0);
    let special = ENTITIES.iter().flat_map(|entity| entity.defects).map(|defect| defect.0);
    ["all", "none", mess::TRUNCATED, mess::CORRUPT].into_iter().chain(general).chain(special).any(|known| known == code)
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("a share is from 0 to 1".to_owned()) }
}

/// `16MiB`, `1.5 GB`, `4096`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        other => {
            return Err(format!("unknown unit {other}; use B, kB, MB, GB, TB, KiB, MiB, GiB or TiB"));
        }
    };
    let number: f64 = number.parse().map_err(|_| "not a number with a unit".to_owned())?;
    Ok((number * factor as f64) as u64)
}
