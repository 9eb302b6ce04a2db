package bayes

import (
	"errors"
	"math"

	"github.com/sluicemail/sluice/sdk"
)

// settings is the table [plugin.NAME.config]; README.md says what each key means.
type settings struct {
	SpamScore     float64 `config:"spam_score"`
	HamScore      float64 `config:"ham_score"`
	SpamAt        float64 `config:"spam_at"`
	HamAt         float64 `config:"ham_at"`
	MinSpam       int     `config:"min_spam"`
	MinHam        int     `config:"min_ham"`
	MaxTokens     int     `config:"max_tokens"`
	MaxLessons    int     `config:"max_lessons"`
	LessonsPerDay int     `config:"lessons_per_day"`
	PerAccount    bool    `config:"per_account"`
}

func defaults() settings {
	return settings{
		SpamScore: 6.5, HamScore: -1.5, SpamAt: 0.99, HamAt: 0.01, MinSpam: 200, MinHam: 200,
		MaxTokens: 1_000_000, MaxLessons: 100_000, LessonsPerDay: 100,
	}
}

func (s settings) check() error {
	var problems []error
	bad := func(wrong bool, key, problem string) {
		if wrong {
			problems = append(problems, &sdk.SettingError{Key: key, Problem: problem})
		}
	}
	bad(s.SpamScore < 0 || s.SpamScore > 1000 || math.IsNaN(s.SpamScore), "spam_score", "expected a number from 0 to 1000")
	bad(s.HamScore > 0 || s.HamScore < -1000 || math.IsNaN(s.HamScore), "ham_score", "expected a number from -1000 to 0")
	bad(s.SpamAt < 0.5 || s.SpamAt > 1, "spam_at", "expected a probability from 0.5 to 1")
	bad(s.HamAt > 0.5 || s.HamAt < 0 || s.HamAt == s.SpamAt, "ham_at", "expected a probability from 0 to 0.5, and less than spam_at")
	bad(s.MinSpam < 1, "min_spam", "expected at least 1")
	bad(s.MinHam < 1, "min_ham", "expected at least 1")
	bad(s.MaxTokens < 10_000 || s.MaxTokens > 100_000_000, "max_tokens", "expected from 10000 to 100000000")
	bad(s.MaxLessons < 1000 || s.MaxLessons > 100_000_000, "max_lessons", "expected from 1000 to 100000000")
	bad(s.LessonsPerDay < 0, "lessons_per_day", "expected 0, which lets no account teach, or more")
	return errors.Join(problems...)
}

// limits are the settings that the store obeys.
type limits struct {
	minSpam, minHam uint64 // lessons before it speaks
	tokens, lessons uint64 // kept in a database
	perDay          uint64 // lessons of an account
}

func (s settings) limits() limits {
	return limits{uint64(s.MinSpam), uint64(s.MinHam), uint64(s.MaxTokens), uint64(s.MaxLessons), uint64(s.LessonsPerDay)}
}
