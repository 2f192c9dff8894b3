-- Environments: whose runs are archived, and whether their key is taken.

-- One Trigger.dev environment. Its key is never stored.
CREATE TABLE tailrace.environments (
    id            int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    api_url       text NOT NULL,
    halted_at     timestamptz,
    halted_reason text,
    probed_at     timestamptz,
    watched_by    uuid,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT environments_name_key UNIQUE (name)
);

COMMENT ON COLUMN tailrace.environments.halted_at IS
    'Since when nothing of this environment is read because upstream refused the key; null: it is read.';
COMMENT ON COLUMN tailrace.environments.probed_at IS
    'When somebody last asked upstream whether the key of this halted environment is taken again.';
COMMENT ON COLUMN tailrace.environments.watched_by IS
    'The worker that watches the runs. No foreign key: it does while that row of workers lives.';

INSERT INTO tailrace.environments (name, api_url) VALUES ('default', 'https://api.trigger.dev');
