// Package synth makes up a library: patrons, loans, requests, resource sharing, fees and notices that
// never were, with the proportions of real ones. It is for demonstrations, load tests and research on
// retention; nothing of it comes from a person.
//
// [Generate] lays out who borrowed when; [Library.Entries] then writes the records down one by one, so
// that a million loans take about twenty megabytes. The same [Params] give the same bytes on every
// machine and with every version of Go. A patron's own history does not change when more patrons or
// loans are asked for; the numbering of the records and the copies of the items do.
//
// # Parameters that were measured somewhere
//
//	loans per patron      lognormal, mu 1.82, sigma 1.90, cut at 3,571    Ann Arbor, holds of 26,863 patrons
//	popularity of titles  share ~ rank^-0.91                              Reed College
//	renewals              0.47 per loan                                   San Francisco
//	overdue               19 % undergraduate, 7 % graduate, 2 % faculty,
//	                      10 % other                                      Wichita State
//	months and weekdays   thousandths, from January: 65 132 104 78 38 21
//	                      21 55 154 128 127 77; from Sunday: 77 196 182
//	                      186 173 134 52                                  Reed College, 93,564 loans of 2018 to 2020
//
// Months and weekdays are those of a college with two semesters; a public library's year is flatter.
//
// # Parameters whose origin is not recorded
//
// They were handed down in carrel's own notes. Reed's loans, three-hour reserves among them, are
// shorter: for students log(1+days) has mean 1.4 and sd 1.7 there.
//
//	hold time in days     log(1+days) normal: mean 3.3, sd 1.3 students; 3.9, 1.6 faculty
//	lost                  0.4 % of loans
//	overdue fine          0.10 to 0.15 a day, at most 6
//	lost fee              49 to 72
//
// # Assumed
//
// What follows was measured nowhere we know of. It is plausible, it exercises every state, and it must not
// be cited.
//
//   - Loans per patron are as many as holds per patron, in whatever number of years is asked for.
//   - Open from 8 to 22, busiest from 10 to 16. The clock is UTC.
//   - Claimed returned: 0.1 % of loans, two weeks after they were due; half are found on the shelf after exp(90 days).
//   - Lost: declared 60 days after they were due; 30 % come back after exp(60 days), and the fee is waived then
//     if it is still owed. The item of a loan whose lost fee is paid is withdrawn.
//   - Fees: paid after exp(60 days), 15 % never; of those settled, 92 % are paid (cash, card or online), 6 %
//     waived, 2 % exported to the bursar; of those owed, 5 % are in process.
//   - Late by exp(10 days), at most half of the time the item was out.
//   - Groups: 55 % undergraduate, 20 % graduate, 10 % faculty, 15 % other. Others keep items as long as students do.
//   - Accounts: undergraduates 4 years, graduates 3, faculty 12, others 2, ending on a 30 June; a quarter of the
//     students whose account has ended are alumni today; 10 % wish to keep their history, 5 % to forget it.
//   - Loan periods: 28 days undergraduate, 56 graduate, 180 faculty, 21 other. Where renewals do not explain how
//     long a loan that is not late took, it was extended at the desk.
//   - 40 % of loans follow another of the same visit within 90 seconds.
//   - 60,000 titles; a copy is lent to one at a time, and the library buys another when all are out.
//   - Proxies on 8 % of faculty's loans and 1 % of others'; 10 % of others have a sponsor, 20 % are staff, of
//     whose loans half are self-service; comments and notes on 1 % of loans each.
//   - Requests: 15 % of loans fill one placed exp(5 days) before; as many as 3 % of loans are not filled, of which 60 %
//     are cancelled and 40 % expire, within 30 days. 5 % go to another recipient, 20 % have a delivery address.
//   - Resource sharing: 2 % of loans are of borrowed items, and as many as 1 % of loans are lent to libraries.
//   - Notices: one per overdue loan a day after it was due and a second after two weeks more, 90 % of filled requests,
//     20 % of fees; 1 % fail.
//
// Hold time and lateness are drawn apart from each other, so a due date is made to fit both: studies of loan
// periods are not for this generator.
package synth
