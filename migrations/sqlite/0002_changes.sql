-- Changes that can change what somebody may see, or what a job is doing: keys only, for whoever reads the truth again.
-- A bounded tail is kept; a reader that has fallen further behind asks for everything.

CREATE TABLE changes (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    key1   TEXT NOT NULL,
    key2   TEXT
) STRICT;

CREATE TRIGGER changes_bounded AFTER INSERT ON changes WHEN NEW.id % 1000 = 0 BEGIN
    DELETE FROM changes WHERE id <= NEW.id - 20000;
END;

CREATE TRIGGER users_insert AFTER INSERT ON users BEGIN
    INSERT INTO changes (source, key1) VALUES ('users', NEW.id);
END;
CREATE TRIGGER users_update AFTER UPDATE ON users WHEN OLD.disabled_at IS NOT NEW.disabled_at OR OLD.id IS NOT NEW.id BEGIN
    INSERT INTO changes (source, key1) VALUES ('users', OLD.id), ('users', NEW.id);
END;
CREATE TRIGGER users_delete AFTER DELETE ON users BEGIN
    INSERT INTO changes (source, key1) VALUES ('users', OLD.id);
END;

-- A job that is new says what it says to whoever asks first; one that the application changes has to be told to those who asked
-- before. A change of the status with a new version is our write-back, which everybody knows already.
CREATE TRIGGER jobs_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO changes (source, key1) VALUES ('new_jobs', NEW.id);
END;
CREATE TRIGGER jobs_update AFTER UPDATE ON jobs
WHEN OLD.user_id IS NOT NEW.user_id OR OLD.id IS NOT NEW.id OR (OLD.status IS NOT NEW.status AND OLD.version IS NEW.version)
BEGIN
    INSERT INTO changes (source, key1) VALUES ('jobs', OLD.id), ('jobs', NEW.id);
END;
CREATE TRIGGER jobs_delete AFTER DELETE ON jobs BEGIN
    INSERT INTO changes (source, key1) VALUES ('jobs', OLD.id);
END;

CREATE TRIGGER documents_insert AFTER INSERT ON documents BEGIN
    INSERT INTO changes (source, key1) VALUES ('documents', NEW.id);
END;
CREATE TRIGGER documents_update AFTER UPDATE ON documents WHEN OLD.owner_id IS NOT NEW.owner_id OR OLD.id IS NOT NEW.id BEGIN
    INSERT INTO changes (source, key1) VALUES ('documents', OLD.id), ('documents', NEW.id);
END;
CREATE TRIGGER documents_delete AFTER DELETE ON documents BEGIN
    INSERT INTO changes (source, key1) VALUES ('documents', OLD.id);
END;

CREATE TRIGGER document_permissions_insert AFTER INSERT ON document_permissions BEGIN
    INSERT INTO changes (source, key1, key2) VALUES ('document_permissions', NEW.document_id, NEW.user_id);
END;
CREATE TRIGGER document_permissions_update AFTER UPDATE ON document_permissions BEGIN
    INSERT INTO changes (source, key1, key2)
    VALUES ('document_permissions', OLD.document_id, OLD.user_id), ('document_permissions', NEW.document_id, NEW.user_id);
END;
CREATE TRIGGER document_permissions_delete AFTER DELETE ON document_permissions BEGIN
    INSERT INTO changes (source, key1, key2) VALUES ('document_permissions', OLD.document_id, OLD.user_id);
END;
