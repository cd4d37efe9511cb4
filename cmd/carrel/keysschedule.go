package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-project/carrel/audit"
	"github.com/carrel-project/carrel/crypto"
)

func newKeysSchedule() *cobra.Command {
	var u upkeepFlags
	var every, horizon string
	cmd := &cobra.Command{
		Use:   "schedule --db DSN [--every PERIOD] [--horizon PERIOD|none] --actor A --approval REF",
		Short: "Say how long an epoch lasts, and how long backups are kept",
		Long: `Sets how long an epoch lasts (30 days if nobody says otherwise) and the horizon: how long backups of the database are kept, and old
copies of the keyring. So long after an epoch has ended its keys are destroyed, and nobody can open what a backup of then holds: neither of those who were
forgotten since, nor of anybody, however much of the keys they have today. Until a horizon is set, no key is destroyed. Setting it destroys nothing yet:
carrel keys rotate --due does, every night.

A horizon shorter than your backups are kept makes the older ones useless. A month counts 30 days, a year 365.`,
		Example: `  carrel keys schedule --db library.db --every P1M --horizon P90D --actor dpo --approval "backup policy 2026-2"
  carrel keys schedule --db library.db --horizon none --actor dpo --approval "backup policy 2026-3"`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needed(cmd, "approval"); err != nil {
				return err
			}
			if every == "" && horizon == "" {
				return fmt.Errorf("%swant --every, --horizon or both", place(cmd))
			}
			change := func(s *crypto.Schedule) (err error) {
				if every != "" {
					if s.Every, err = length(every); err != nil {
						return fmt.Errorf("%s--every: %w", place(cmd), err)
					}
				}
				if horizon == "none" {
					s.Horizon = 0
				} else if horizon != "" {
					if s.Horizon, err = length(horizon); err != nil {
						return fmt.Errorf("%s--horizon: %w; or none", place(cmd), err)
					}
				}
				return nil
			}
			if err := change(new(crypto.Schedule)); err != nil {
				return err
			}
			return u.with(cmd, func(_ *database, k *crypto.Keyring, t *audit.Trail) error {
				st, err := k.Status()
				if err != nil {
					return keyProblem(err)
				}
				s := st.Schedule
				if err := change(&s); err != nil {
					return err
				}
				if err := t.Schedule(cmd.Context(), u.by(), s); err != nil {
					return keyProblem(trailProblem(err))
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), scheduled(s))
				return err
			})
		},
	}
	u.register(cmd, "reference under which that was decided")
	cmd.Flags().StringVar(&every, "every", "", "how long an epoch lasts: an ISO 8601 period of days, weeks, months or years")
	cmd.Flags().StringVar(&horizon, "horizon", "", "how long backups are kept: a period, or none")
	return cmd
}

// length returns how long a period is.
func length(period string) (time.Duration, error) {
	now := time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)
	if strings.ContainsAny(period, "YM") { // of months, whose length is not known
		m := periodForm.FindStringSubmatch(period)
		if m == nil {
			_, err := ago(period, now)
			return 0, err
		}
		days := 0
		for i, of := range []int{365, 30, 7, 1} {
			var n int
			fmt.Sscan(m[i+1], &n) // empty is zero
			days += n * of
		}
		period = fmt.Sprintf("P%dD", days)
	}
	then, err := ago(period, now)
	return now.Sub(then), err
}

func scheduled(s crypto.Schedule) string {
	every := s.Every
	if every == 0 {
		every = crypto.DefaultEpoch
	}
	if s.Horizon == 0 {
		return fmt.Sprintf("an epoch lasts %s; no horizon: the keys of past epochs are kept for ever", days(every))
	}
	return fmt.Sprintf("an epoch lasts %s; its keys are destroyed %s after it has ended", days(every), days(s.Horizon))
}

func days(d time.Duration) string {
	if d%(24*time.Hour) != 0 {
		return period(d)
	}
	return plural(int(d/(24*time.Hour)), "day")
}
