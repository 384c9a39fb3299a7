//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic, whatever the
//! bytes.
