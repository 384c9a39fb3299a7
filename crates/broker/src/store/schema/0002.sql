-- Where a reference value came from, as JSON. Of those that were here before, nothing is known.
ALTER TABLE reference_value ADD COLUMN provenance TEXT NOT NULL DEFAULT '{}';
