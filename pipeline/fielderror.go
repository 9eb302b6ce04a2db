package pipeline

// FieldError is one problem with one key of a room's TOML table; the
// configuration adds file and line.
type FieldError struct {
	Key     string // key below the room's table, dotted: "junk_at"
	Problem string // what is wrong, and what was expected
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Problem }
