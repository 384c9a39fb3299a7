-- The first entry that is kept, counted from 0, and the number of the entry that says so. Of those before it the hashes
-- stay, as nodes of level 0.
ALTER TABLE log_head ADD COLUMN minimum bigint NOT NULL DEFAULT 0;
ALTER TABLE log_head ADD COLUMN pruned_by bigint NOT NULL DEFAULT 0;

DROP TRIGGER log_change_refused ON log_entry;
CREATE TRIGGER log_update_refused BEFORE UPDATE ON log_entry
    FOR EACH ROW EXECUTE FUNCTION log_refuse();

CREATE FUNCTION log_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.seq > coalesce((SELECT minimum FROM log_head WHERE id = 1), 0) THEN
        RAISE EXCEPTION 'the audit record is append-only';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER log_delete_refused BEFORE DELETE ON log_entry
    FOR EACH ROW EXECUTE FUNCTION log_keep();

CREATE FUNCTION log_minimum_rise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.minimum < OLD.minimum THEN
        RAISE EXCEPTION 'what was pruned does not come back';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_minimum_rises BEFORE UPDATE OF minimum ON log_head
    FOR EACH ROW EXECUTE FUNCTION log_minimum_rise();
