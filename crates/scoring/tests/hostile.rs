//! Files of columns that are nearly right: each byte changed, some cut. They are read or refused,
//! without a panic and in bounded memory.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    types::Int32Type,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};
use strongroom_scoring::columns::fuzzing;

const ROWS: usize = 120;

fn rows(dictionaries: bool) -> RecordBatch {
    let numbers = (0..ROWS).map(|row| (row % 7 != 3).then_some(row as f64 * 0.5));
    let names: Vec<String> = (0..ROWS).map(|row| format!("tx-{}", row % 9)).collect();
    let names: ArrayRef = if dictionaries {
        let names: DictionaryArray<Int32Type> = names.iter().map(|name| Some(&**name)).collect();
        Arc::new(names)
    } else {
        Arc::new(StringArray::from(names))
    };
    let columns: [(&str, ArrayRef); 5] = [
        ("note", Arc::new(StringArray::from(vec!["x"; ROWS]))),
        ("a", Arc::new(Float64Array::from_iter(numbers))),
        ("id", names),
        ("b", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("c", Arc::new(BooleanArray::from(vec![true; ROWS]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn parquet(properties: WriterPropertiesBuilder) -> Vec<u8> {
    let properties = properties
        .set_max_row_group_row_count(Some(ROWS / 2))
        .build();
    let batch = rows(false);
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn parquet_files() -> Vec<(&'static str, Vec<u8>)> {
    let with = |compression| WriterProperties::builder().set_compression(compression);
    let encryption = |readable| {
        FileEncryptionProperties::builder(vec![0x5a; 16])
            .with_plaintext_footer(readable)
            .build()
            .unwrap()
    };
    let encrypted = |readable| {
        let builder = with(Compression::SNAPPY);
        parquet(builder.with_file_encryption_properties(encryption(readable)))
    };
    vec![
        ("plain", parquet(with(Compression::UNCOMPRESSED))),
        ("snappy", parquet(with(Compression::SNAPPY))),
        ("gzip", parquet(with(Compression::GZIP(Default::default())))),
        (
            "zstd-v2",
            parquet(
                with(Compression::ZSTD(Default::default()))
                    .set_writer_version(WriterVersion::PARQUET_2_0)
                    .set_dictionary_enabled(false),
            ),
        ),
        ("lz4", parquet(with(Compression::LZ4_RAW))),
        ("encrypted", encrypted(false)),
        ("encrypted-readable-footer", encrypted(true)),
    ]
}

fn arrow_files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for dictionaries in [false, true] {
        for (name, compression) in [
            ("plain", None),
            ("lz4", Some(CompressionType::LZ4_FRAME)),
            ("zstd", Some(CompressionType::ZSTD)),
        ] {
            let options = IpcWriteOptions::default()
                .try_with_compression(compression)
                .unwrap();
            let batch = rows(dictionaries);
            let schema = batch.schema();
            let mut file =
                FileWriter::try_new_with_options(Vec::new(), &schema, options.clone()).unwrap();
            let mut stream =
                StreamWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
            for start in [0, ROWS / 2] {
                file.write(&batch.slice(start, ROWS / 2)).unwrap();
                stream.write(&batch.slice(start, ROWS / 2)).unwrap();
            }
            let kind = if dictionaries {
                "dictionaries"
            } else {
                "values"
            };
            files.push((format!("file-{kind}-{name}"), file.into_inner().unwrap()));
            files.push((
                format!("stream-{kind}-{name}"),
                stream.into_inner().unwrap(),
            ));
        }
    }
    files
}

/// Gives each file to `read`, whole, changed and cut.
fn nearly_right(file: &[u8], read: fn(&[u8])) {
    read(file);
    let mut changed = file.to_vec();
    for at in 0..file.len() {
        changed[at] ^= if at.is_multiple_of(2) { 0x01 } else { 0x40 };
        read(&changed);
        changed[at] = file[at];
        // Numbers of four bytes at their greatest.
        if let Some(number) = changed.get_mut(at..at + 4) {
            number.fill(0xff);
            read(&changed);
            changed[at..at + 4].copy_from_slice(&file[at..at + 4]);
        }
    }
    for kept in (0..file.len()).step_by(7) {
        read(&file[..kept]);
    }
}

/// The most memory that this process had.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

/// A library's panic is caught and told as an error; its text would fill the log of a test.
fn without_panic_texts(work: impl FnOnce()) {
    let here = std::thread::current().id();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let ours = panic
            .location()
            .is_some_and(|place| place.file().contains("scoring"));
        if ours || std::thread::current().id() != here {
            hook(panic);
        }
    }));
    work();
}

#[test]
fn parquet_that_is_nearly_right_takes_the_process_or_its_memory() {
    without_panic_texts(|| {
        for (name, file) in parquet_files() {
            nearly_right(&file, fuzzing::parquet);
            let peak = peak_mib();
            assert!(peak < 400, "{name}: {peak} MiB");
        }
    });
}

#[test]
fn arrow_that_is_nearly_right_takes_the_process_or_its_memory() {
    without_panic_texts(|| {
        for (name, file) in arrow_files() {
            nearly_right(&file, fuzzing::arrow);
            let peak = peak_mib();
            assert!(peak < 400, "{name}: {peak} MiB");
        }
    });
}

/// The seeds of the fuzz targets are what these writers make; `STRONGROOM_WRITE_SEEDS` makes them
/// anew.
#[test]
fn seeds_of_the_fuzzer_are_others() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds");
    let parquet = parquet_files().into_iter();
    let parquet = parquet.map(|(name, file)| (format!("scoring_parquet/{name}"), file));
    let arrow = arrow_files().into_iter();
    let arrow = arrow.map(|(name, file)| (format!("scoring_arrow/{name}"), file));
    for (name, file) in parquet.chain(arrow) {
        let path = format!("{seeds}/{name}");
        if std::env::var_os("STRONGROOM_WRITE_SEEDS").is_some() {
            fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
            fs::write(&path, &file).unwrap();
        }
        let seed = fs::read(&path).unwrap();
        // What is encrypted differs from one time to the next, but not in its length.
        if name.contains("encrypted") {
            assert_eq!(seed.len(), file.len(), "{name}");
        } else {
            assert!(seed == file, "{name}");
        }
    }
}
