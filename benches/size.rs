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
    let (figures, measured) = ("zip per function, the largest", format!("{} MB", figure(largest)));
    report.open_goal(figures, "≤ 3.0 MB", measured.clone(), largest <= 3.0);
    report.goal(figures, "≤ 3.3 MB", measured, largest <= 3.3);
}

/// The size of the zip file that holds a function.
fn zip(binary: &[u8]) -> u64 {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    // SAM packs with zlib at level 6: this library's 9 comes out a hundredth smaller, its own 6 three larger.
    let options = options.compression_level(Some(9)).unix_permissions(0o755);
    zip.start_file("bootstrap", options).expect("an empty file");
    zip.write_all(binary).expect("memory");
    zip.finish().expect("memory").into_inner().len() as u64
}
