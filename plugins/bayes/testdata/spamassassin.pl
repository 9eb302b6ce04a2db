# Learns and judges messages with SpamAssassin's own Bayes and nothing else of it: no rule, no network, a store
# of its own in DIRECTORY. LIST has a line for each message, "learn spam FILE", "learn ham FILE" or
# "judge FILE"; for the last it prints the probability of spam.
use strict;
use warnings;
use Mail::SpamAssassin;

my ($directory, $list) = @ARGV;
my $config = <<"END";
use_bayes 1
bayes_path $directory/bayes
bayes_auto_learn 0
bayes_auto_expire 0
bayes_learn_to_journal 0
bayes_min_ham_num 200
bayes_min_spam_num 200
loadplugin Mail::SpamAssassin::Plugin::Check
loadplugin Mail::SpamAssassin::Plugin::Bayes
body BAYES_99 eval:check_bayes('0.99','1.00')
score BAYES_99 1
END
my $sa = Mail::SpamAssassin->new({
  config_text => $config, rules_filename => '/nonexistent', site_rules_filename => '/nonexistent',
  userprefs_filename => "$directory/none", dont_copy_prefs => 1, local_tests_only => 1, home_dir_for_helpers => $directory,
});
$sa->init(1);
$sa->init_learner({ caller_will_untie => 1, wait_for_lock => 1 });
my $learning = 1;
open my $lines, '<', $list or die "$list: $!";
while (my $line = <$lines>) {
  chomp $line;
  my ($what, @rest) = split ' ', $line;
  my $path = $rest[-1];
  open my $file, '<:raw', $path or die "$path: $!";
  my $text = do { local $/; <$file> };
  close $file;
  my $message = $sa->parse($text, 1);
  if ($what eq 'learn') {
    $sa->learn($message, undef, $rest[0] eq 'spam' ? 1 : 0, 0)->finish;
  } else {
    if ($learning) { $sa->rebuild_learner_caches(); $sa->finish_learner(); $learning = 0; }
    my $status = $sa->check($message);
    printf "%.17g\n", $status->{bayes_score} // 0.5;
    $status->finish;
  }
  $message->finish;
}
