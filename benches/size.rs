//! Stripped binaries, and their zip files.

use std::io::{Cursor, Write as _};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::binaries::Binaries;
use crate::figures::figure;
use crate::process::megabytes;
use crate::report::{Report, Table};

pub fn measure(binaries: &Binaries, report: &mut Report) {
    let mut table = Table::new(["function", "binary, MB", "zip, MB"]);
    let mut largest = 0.0_f64;
    for name in binaries.functions() {
        let bytes = std::fs::read(binaries.path(name)).expect("a release binary");
        let zipped = megabytes(zip(&bytes));
        largest = largest.max(zipped);
        table.row([format!("`{name}`"), figure(megabytes(bytes.len() as u64)), figure(zipped)]);
    }
    report.table("size", &table);
    report.goal(
        "zip per function, the largest",
        "≤ 2.5 MB",
        format!("{} MB", figure(largest)),
        largest <= 2.5,
    );
}

/// The size of the zip file that holds a function.
fn zip(binary: &[u8]) -> u64 {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.start_file("bootstrap", options.unix_permissions(0o755)).expect("an empty file");
    zip.write_all(binary).expect("memory");
    zip.finish().expect("memory").into_inner().len() as u64
}
