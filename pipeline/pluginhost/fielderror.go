package pluginhost

// FieldError is one problem with one key of [plugin.NAME].
type FieldError struct {
	Key     string // key below the table, dotted
	Problem string // what is wrong, and what was expected
}

func (e *FieldError) Error() string { return e.Key + ": " + e.Problem }
