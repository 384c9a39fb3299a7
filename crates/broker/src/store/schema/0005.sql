-- The first entry that is kept, counted from 0, and the number of the entry that says so. Of those before it the hashes
-- stay, as nodes of level 0.
ALTER TABLE log_head ADD COLUMN minimum INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log_head ADD COLUMN pruned_by INTEGER NOT NULL DEFAULT 0;

DROP TRIGGER log_delete_refused;
CREATE TRIGGER log_delete_refused BEFORE DELETE ON log_entry
WHEN OLD.seq > coalesce((SELECT minimum FROM log_head WHERE id = 1), 0)
BEGIN
    SELECT RAISE(ABORT, 'the audit record is append-only');
END;
CREATE TRIGGER log_minimum_rises BEFORE UPDATE OF minimum ON log_head
WHEN NEW.minimum < OLD.minimum
BEGIN
    SELECT RAISE(ABORT, 'what was pruned does not come back');
END;
